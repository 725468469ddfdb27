"""Changes to files that either happened or did not, whatever ends the process between."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_RENAME_SWAP_MAC = 2
"""`RENAME_SWAP` of renamex_np(2)."""
_RENAME_EXCL_MAC = 4
_FALLOC_FL_KEEP_SIZE = 1


def exchange(one: Path, other: Path) -> None:
    """Swap two entries of one file system in one step (renameat2(2), renamex_np(2) on a Mac). Raises OSError."""
    _renamed(one, other, linux_flags=_RENAME_EXCHANGE, mac_flags=_RENAME_SWAP_MAC)


def move_if_free(source: Path, target: Path) -> None:
    """Rename `source` to `target` in one step. Raises FileExistsError when the name is taken, OSError."""
    _renamed(source, target, linux_flags=_RENAME_NOREPLACE, mac_flags=_RENAME_EXCL_MAC)


def write_in_place(path: Path, content: bytes) -> None:
    """Give an existing JSON file new content while keeping its inode, with which its locks stay.

    Room is claimed before the first byte changes, so a full disk leaves the old content. The bytes go out in one
    write, padded with blanks to the old length and cut afterwards: what a death between the two leaves is the same
    document. Raises OSError.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        padded = content.ljust(os.fstat(descriptor).st_size)
        _claim_room(descriptor, len(padded))
        write_all(descriptor, padded)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def suppress_unsupported() -> Generator[None]:
    """Go on where a file system does not know an optional operation; any other failure is raised."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS):
            raise


def write_at(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    """Write all of `content` at `offset`: a full disk takes a part, and fails at the next write. Raises OSError."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def write_new(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Make a file that did not exist, and have it on the medium before returning. Raises OSError, FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Make or replace a file in one step: readers see the old content or the new, never a part. Raises OSError."""
    beside = path.with_name(f".{path.name}.{uuid4()}")
    try:
        write_new(beside, content, mode)
        os.replace(beside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(beside)
        raise


@contextmanager
def whole_file(target: Path, mode: int = 0o644) -> Generator[BinaryIO]:
    """A new file that takes the place of `target`, on the medium, when the block ends well.

    Whatever ends it early leaves the old file, and nothing else where the file system knows files without a name. What
    is there and is no plain file (a pipe, a device) is written to as it is. Raises OSError.
    """
    if target.exists() and not target.is_file():
        with target.open("wb") as stream:
            yield stream
        return
    place = Path(os.path.realpath(target))
    beside = place.with_name(f".{place.name}.{uuid4()}")
    descriptor = _nameless(place.parent, mode)
    has_name = descriptor is None
    if descriptor is None:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
            if not has_name:
                _give_name(descriptor, beside)
        os.replace(beside, place)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(beside)
        raise


def _nameless(folder: Path, mode: int) -> int | None:
    """A new file without a name in `folder`; None where there is no such thing (open(2), O_TMPFILE)."""
    if not hasattr(os, "O_TMPFILE"):
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
        if not folder.is_dir():
            raise
        return None


def _give_name(descriptor: int, path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # with a folder Python calls linkat(2), which alone can follow the link in /proc
        os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the medium before returning. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress_unsupported():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def removed(path: Path) -> None:
    """Delete a file or a whole folder; entries that vanish meanwhile are nobody's trouble. Raises OSError."""
    while True:
        try:
            if path.is_dir() and not path.is_symlink():
                import shutil

                shutil.rmtree(path)
            else:
                os.unlink(path)
        except FileNotFoundError:
            if not os.path.lexists(path):
                return
        else:
            return


def _claim_room(descriptor: int, size: int) -> None:
    """Have `size` bytes of a file on the disk without changing what it reads as (posix_fallocate would lengthen it)."""
    if sys.platform != "linux" or not size:
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    offset = ctypes.c_int64
    with suppress_unsupported():
        if libc.fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, offset(0), offset(size)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of `content` at the file's position; as `write_at` does. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _renamed(source: Path, target: Path, *, linux_flags: int, mac_flags: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    words = os.fsencode(source), os.fsencode(target)
    if sys.platform == "darwin":
        failed = libc.renamex_np(*words, mac_flags)
    else:
        failed = libc.renameat2(_AT_FDCWD, words[0], _AT_FDCWD, words[1], linux_flags)
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(source), None, str(target))
