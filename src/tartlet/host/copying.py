"""Copies of big files that share or skip what they can: reflinks, and copies that keep holes."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress

from tartlet.errors import FileTrouble
from tartlet.host.trouble import trouble_writing

_FICLONE = 0x40049409
"""`_IOW(0x94, 9, int)`, ioctl_ficlonerange(2)."""

_PIECE = 8 * 1024 * 1024
"""Bytes per system call: small enough that Ctrl+C and a cancelled caller are heard within a moment."""

_CANNOT_SHARE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EISDIR, errno.ETXTBSY)
_OTHER_WAY = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EPERM)

AnyPath = str | os.PathLike[str]


def reflink(source: AnyPath, target: AnyPath, mode: int = 0o644) -> bool:
    """Make the new file `target` share the blocks of `source` until one of them is written (FICLONE).

    False, and no target, where the file system cannot do that or the two are on different ones.
    Raises FileTrouble, also when `target` exists.
    """
    with _pair(source, target, mode) as (reader, writer):
        try:
            fcntl.ioctl(writer, _FICLONE, reader)
        except OSError as exc:
            if exc.errno not in _CANNOT_SHARE:
                raise
            os.unlink(target)
            return False
        return True


def sparse_copy(
    source: AnyPath,
    target: AnyPath,
    *,
    mode: int = 0o644,
    sync: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Copy `source` (a file or a block device) to the new file `target`; holes stay holes. Returns the bytes of data.

    `sync`: have it on the medium before returning. `progress` gets the bytes of each piece (at most 8 MiB) and may
    raise to end the copy. Whatever ends it early, no part of a target is left. Raises NoSpace, FileTrouble.
    """
    with _pair(source, target, mode) as (reader, writer):
        size = os.lseek(reader, 0, os.SEEK_END)
        os.ftruncate(writer, size)
        copied = 0
        for start, end in _data(reader, size):
            for piece in _copied(reader, writer, start, end):
                copied += piece
                if progress:
                    progress(piece)
        if sync:
            os.fsync(writer)
        return copied


@contextmanager
def _pair(source: AnyPath, target: AnyPath, mode: int) -> Generator[tuple[int, int], None, None]:
    """Descriptors of `source` for reading and of the new `target`, which goes away when the block fails."""
    try:
        reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise FileTrouble("cannot read", os.fspath(source), exc) from exc
    try:
        try:
            writer = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as exc:
            raise trouble_writing(target, exc) from exc
        try:
            yield reader, writer
        except BaseException as exc:
            with suppress(FileNotFoundError):
                os.unlink(target)
            if isinstance(exc, OSError):
                raise trouble_writing(target, exc) from exc
            raise
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _data(reader: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges that hold data, as far as the file system tells."""
    at = 0
    while at < size:
        try:
            start = os.lseek(reader, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing but a hole until the end
                return
            if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            yield at, size  # block devices and some network file systems know no holes
            return
        if start >= size:  # grew since its size was asked for
            return
        at = min(os.lseek(reader, start, os.SEEK_HOLE), size)
        yield start, at


def _copied(reader: int, writer: int, start: int, end: int) -> Iterator[int]:
    """Copy one range piece by piece, in the kernel where it can; gives the bytes of each piece."""
    ways = [_in_kernel, _by_sendfile, _by_hand]
    while start < end:
        try:
            done = ways[0](reader, writer, start, min(end - start, _PIECE))
        except OSError as exc:
            if len(ways) == 1 or exc.errno not in _OTHER_WAY:
                raise
            done = 0
        if done:
            start += done
            yield done
        elif len(ways) > 1:
            ways.pop(0)
        else:
            return  # the source was cut short meanwhile; the rest of the target reads as zeros


def _in_kernel(reader: int, writer: int, at: int, count: int) -> int:
    if not hasattr(os, "copy_file_range"):  # macOS
        return 0
    return os.copy_file_range(reader, writer, count, at, at)


def _by_sendfile(reader: int, writer: int, at: int, count: int) -> int:
    os.lseek(writer, at, os.SEEK_SET)
    return os.sendfile(writer, reader, at, count)


def _by_hand(reader: int, writer: int, at: int, count: int) -> int:
    return os.pwrite(writer, os.pread(reader, min(count, 1024 * 1024), at), at)
