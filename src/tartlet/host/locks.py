"""The kernel locks of a home, and who holds them.

A *file lock* is a BSD `flock` on a read-only descriptor: bound to the open file, released on close and on death.
A *process lock* is a POSIX record lock over a whole file: the kernel names its holder, which is how `stop` and
`suspend` find the supervisor. A process loses its record lock as soon as it closes **any** descriptor of that file,
so nothing may open a VM's `config.json` again in the process that holds it.
A *number lock* is a record lock over one byte of a file, of the kind that belongs to the open file (OFD): as many as
one likes in one file, which stays empty.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from collections.abc import Generator
from contextlib import contextmanager

from tartlet.errors import UserError

_MAC = sys.platform == "darwin"
_FLOCK = struct.Struct("qqihh" if _MAC else "hhqqi4x")
"""`struct flock`, 64-bit offsets. Linux: type, whence, start, length, pid. A Mac: start, length, pid, type, whence."""


class LockTrouble(UserError):
    """A lock could not be asked for at all (missing file, no permission); being held by others is not this."""

    def __init__(self, path: str | os.PathLike[str], cause: OSError) -> None:
        super().__init__(f"cannot lock {os.fspath(path)}: {cause.strerror}")


@contextmanager
def file_lock(path: str | os.PathLike[str], *, shared: bool = False) -> Generator[int]:
    """Hold the file lock of `path`, waiting for it; gives the descriptor. Raises LockTrouble.

    `shared`: others may hold it in the same way at the same time.
    """
    descriptor = _opened(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def try_file_lock(path: str | os.PathLike[str]) -> int | None:
    """The descriptor that holds the exclusive file lock of `path`, or None when somebody else does. Raises LockTrouble.

    The lock lasts until the caller closes the descriptor.
    """
    descriptor = _opened(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as exc:
        os.close(descriptor)
        raise LockTrouble(path, exc) from exc
    return descriptor


@contextmanager
def kept_from_removal(path: str | os.PathLike[str]) -> Generator[int]:
    """Hold the shared file lock of `path`, which whoever removes it wants to have alone; gives the descriptor.

    Raises FileNotFoundError when it is gone, also when that happened while the lock was waited for; LockTrouble.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise LockTrouble(path, exc) from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def removable(path: str | os.PathLike[str]) -> Generator[bool]:
    """Whether nobody keeps `path` from removal; for the length of the block nobody can. True when it is gone already.

    Raises LockTrouble.
    """
    try:
        descriptor = try_file_lock(path)
    except LockTrouble:
        if os.path.lexists(path):
            raise
        yield True
        return
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def try_process_lock(path: str | os.PathLike[str]) -> int | None:
    """The descriptor that holds the record lock of `path` for this process, or None when another process does.

    Raises LockTrouble. Closing the descriptor, or any other of this file in this process, gives the lock up.
    """
    descriptor = _opened(path, os.O_RDWR)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(descriptor)
        if exc.errno in (errno.EACCES, errno.EAGAIN):
            return None
        raise LockTrouble(path, exc) from exc
    return descriptor


@contextmanager
def number_lock(path: str | os.PathLike[str], number: int) -> Generator[bool]:
    """Hold the lock `number` (below 2**63) of the file `path` for the length of the block; whether nobody else has it.

    Another process may have it, or another part of this one. The file is made if need be. Where it cannot be, and where
    the system has no such locks (a Mac), nobody else has one.
    """
    set_lock: int | None = getattr(fcntl, "F_OFD_SETLK", None)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        yield True
        return
    try:
        yield set_lock is None or _locked(descriptor, set_lock, number)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, set_lock: int, number: int) -> bool:
    try:
        fcntl.fcntl(descriptor, set_lock, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0))
    except OSError as exc:
        return exc.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def lock_holder(path: str | os.PathLike[str]) -> int:
    """The process that holds the record lock of `path`; 0 when nobody does or the file cannot be opened.

    This process's own lock does not count (the kernel never reports it). From inside another PID namespace the
    holder reads as 0 too.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        question = (0, 0, 0, fcntl.F_RDLCK, os.SEEK_SET) if _MAC else (fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        answer = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(*question)))
    finally:
        os.close(descriptor)
    kind, pid = (answer[3], answer[2]) if _MAC else (answer[0], answer[4])
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def _opened(path: str | os.PathLike[str], flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as exc:
        raise LockTrouble(path, exc) from exc
