"""A range of one file into a range of another: shared where the file system can, else copied, holes kept."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys

_FICLONERANGE = 0x4020940D
"""`_IOW(0x94, 13, struct file_clone_range)`, ioctl_ficlonerange(2)."""
_CLONE_RANGE = struct.Struct("=qQQQ")
"""Descriptor and offset of the source, length, offset in the target."""

_ALIGNMENT = 4096
"""Blocks are shared whole; no file system that can share has smaller ones here."""

_CANNOT_SHARE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ETXTBSY, errno.EBADF)
_OTHER_WAY = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EPERM)
_BY_HAND = 1024 * 1024


def share_range(source: int, offset: int, target: int, at: int, size: int) -> int:
    """Let `target` use the blocks of `source` until one is written; returns how many bytes from the start it has then.

    0 where that cannot be; less than `size` when the end of the range is no end of a block. Raises OSError.
    """
    whole = size // _ALIGNMENT * _ALIGNMENT
    if sys.platform != "linux" or not whole or offset % _ALIGNMENT or at % _ALIGNMENT:
        return 0
    try:
        fcntl.ioctl(target, _FICLONERANGE, _CLONE_RANGE.pack(source, offset, whole, at))
    except OSError as exc:
        if exc.errno not in _CANNOT_SHARE:
            raise
        return 0
    return whole


def copy_range(source: int, offset: int, target: int, at: int, size: int) -> None:
    """Copy bytes, in the kernel where it can. What the source does not have stays as it is. Raises OSError."""
    in_kernel = hasattr(os, "copy_file_range")
    while size:
        try:
            done = _kernel_copy(source, offset, target, at, size) if in_kernel else 0
        except OSError as exc:
            if exc.errno not in _OTHER_WAY:
                raise
            done = 0
        if not done and not in_kernel:
            done = os.pwrite(target, os.pread(source, min(size, _BY_HAND), offset), at)
            if not done:
                return
        in_kernel = in_kernel and done > 0
        offset, at, size = offset + done, at + done, size - done


def _kernel_copy(source: int, offset: int, target: int, at: int, size: int) -> int:
    return os.copy_file_range(source, target, size, offset, at)
