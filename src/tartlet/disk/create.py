"""Make an empty disk."""

from __future__ import annotations

import os
from pathlib import Path

from tartlet.disk import qcow2
from tartlet.disk.model import Disk, DiskFormat
from tartlet.errors import InvalidArgument
from tartlet.host.trouble import trouble_writing


def create_disk(path: Path, size: int, kind: DiskFormat = DiskFormat.RAW) -> Disk:
    """Make the new file `path` an empty disk of `size` bytes, sparse: it takes next to no room until it is written.

    A qcow2 disk is rounded up to whole sectors of 512 bytes. Raises InvalidArgument (ASIF, an impossible size),
    NoSpace, FileTrouble, also when `path` exists.
    """
    if kind is DiskFormat.ASIF:
        raise InvalidArgument("asif disks can only be made on macOS", "use raw or qcow2")
    if not 0 <= size <= qcow2.MAX_SIZE:
        raise InvalidArgument(f"a disk cannot have {size} bytes", f"the largest has {qcow2.MAX_SIZE}")
    if kind is DiskFormat.QCOW2:
        qcow2.write_empty(path, size)
        return Disk(path=path, format=kind, size=qcow2.rounded(size))
    _write_hole(path, size)
    return Disk(path=path, format=kind, size=size)


def _write_hole(path: Path, size: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise trouble_writing(path, exc) from exc
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    except OSError as exc:  # EFBIG: the file system has a smaller limit
        os.unlink(path)
        raise trouble_writing(path, exc) from exc
    finally:
        os.close(descriptor)
