"""Log files that another program appends to and that must not fill the disk."""

from __future__ import annotations

import ctypes
import errno
import os
import sys

_KEEP_SIZE, _PUNCH_HOLE = 0x1, 0x2
"""fallocate(2)."""
_BLOCK = 1 << 20
"""Holes begin and end at multiples of this; every file system's blocks divide it."""


def shorten(path: str | os.PathLike[str], most: int) -> bool:
    """Give back what a log has beyond its last `most` bytes, once it takes twice that; whether something was.

    The end stays at its offset, so that readers and writers go on undisturbed: the beginning becomes a hole. Where the
    file system has no holes the log starts anew. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if found.st_blocks * 512 < 2 * most:
            return False
        hole = (found.st_size - most) // _BLOCK * _BLOCK
        if hole <= 0:
            return False
        if not _punched(descriptor, hole):
            os.ftruncate(descriptor, 0)
        return True
    finally:
        os.close(descriptor)


def first_byte(descriptor: int) -> int:
    """Where what is left of a log begins. Raises OSError."""
    try:
        return os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError:  # empty, or a file system that knows no holes
        return 0


def _punched(descriptor: int, size: int) -> bool:
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        if number in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise OSError(number, os.strerror(number))
    return True
