"""System calls of Linux that Python 3.11 does not have. Imports nothing of ours: the jail's process runs on these."""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
MS_REC, MS_PRIVATE, MS_SLAVE = 0x4000, 1 << 18, 1 << 19
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
"""open_tree(2), move_mount(2), mount_setattr(2) of Linux 5.12: the same numbers on every architecture."""
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_MOUNT_ATTR_RDONLY = 1
_AT_RECURSIVE = 0x8000
_AT_FDCWD = -100

_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 8, 22, 38, 47
_PR_CAP_AMBIENT_RAISE = 2
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones (unshare(2)). Raises OSError."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError that names the target."""
    words = [os.fsencode(word) or None for word in (source, target, kind)]
    _checked(_libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data) or None), target)


def copied_mount(path: str) -> int:
    """A second mount of the folder `path` and of all that is mounted below it, not yet anywhere. Raises OSError."""
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    return _checked(_syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), path)


def put(mount: int, path: str) -> None:
    """Mount what `copied_mount` gave at the folder `path`. Raises OSError."""
    _checked(_syscall(_MOVE_MOUNT, mount, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH), path)


def make_read_only(path: str, *, below: bool) -> None:
    """Let nothing be written through the mount at `path`, with `below` nor through those below it. Raises OSError."""
    attributes = struct.pack("QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    flags = _AT_RECURSIVE if below else 0
    _checked(_syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, attributes, len(attributes)), path)


def die_with_parent(signal: int) -> None:
    """Ask for `signal` when the process that started this one ends; asked before, a change of ids undoes it."""
    _prctl(_PR_SET_PDEATHSIG, signal)


def keep_capabilities() -> None:
    """Let the next change of user ids take no capability away."""
    _prctl(_PR_SET_KEEPCAPS, 1)


def have_capabilities(wanted: tuple[int, ...]) -> None:
    """Have these capabilities (capabilities(7)) and no others. Raises OSError."""
    low, high = (sum(1 << number % 32 for number in wanted if number // 32 == half) for half in (0, 1))
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    _checked(_libc.capset(header, struct.pack("6I", low, low, low, high, high, high)))


def hand_on_capabilities(wanted: tuple[int, ...]) -> None:
    """Have these and no others, and let the next program have them too, whoever it runs as. Raises OSError."""
    have_capabilities(wanted)
    for number in wanted:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


def filter_calls(program: bytes) -> None:
    """Send the system calls of this program, and of the next, through a filter (see `seccomp`). Raises OSError."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    code = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(header))


def _prctl(option: int, *words: int) -> None:
    given = (*words, 0, 0, 0, 0)[:4]
    _checked(_libc.prctl(ctypes.c_int(option), *(ctypes.c_ulong(word) for word in given)))


def _syscall(*words: int | bytes) -> int:
    return int(_libc.syscall(*(ctypes.c_long(word) if isinstance(word, int) else word for word in words)))


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
