"""Memory as a file without a name (memfd_create(2)), to be shared with other processes. Linux only."""

from __future__ import annotations

import fcntl
import os
import sys

from tartlet.host.ranges import copy_range

_ADD_SEALS = 1033
_SHRINK, _GROW, _WRITE = 0x2, 0x4, 0x8
"""fcntl(2), F_ADD_SEALS."""


def memory_file(name: str, size: int) -> int | None:
    """A descriptor of `size` bytes of memory that take no room until they are written; None on other systems.

    `name` is for whoever looks at the process. The caller closes it. Raises OSError.
    """
    if sys.platform != "linux":
        return None
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def frozen_copy(source: int, target: int) -> int:
    """Copy what was written to one memory file into an empty one, which nobody can change from then on.

    It can still be mapped privately and written there. Returns the bytes copied. Raises OSError.
    """
    at = copied = 0
    size = os.fstat(source).st_size
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # nothing but a hole until the end
            break
        at = os.lseek(source, start, os.SEEK_HOLE)
        copy_range(source, start, target, start, at - start)
        copied += at - start
    fcntl.fcntl(target, _ADD_SEALS, _SHRINK | _GROW | _WRITE)
    return copied
