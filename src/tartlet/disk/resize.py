"""Make a disk larger. What lies on it stays; the guest finds free room at the end."""

from __future__ import annotations

import os
from pathlib import Path

from tartlet.disk import qcow2
from tartlet.disk.chain import chain_of, folder_lock
from tartlet.disk.model import Disk, DiskFormat
from tartlet.errors import InvalidArgument, ToolFailed, UserError
from tartlet.host.trouble import trouble_writing


class DiskInUse(UserError):
    """QEMU has the disk open."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"the disk {path} is in use", "stop its VM first")


def grow_disk(folder: Path, size: int, declared: str | None = None) -> Disk:
    """Grow the disk of a VM folder to `size` bytes and return it; the same size changes nothing.

    A qcow2 disk is rounded up to whole sectors of 512 bytes; its base is not touched. `declared` is the format in
    the VM's config. The file lock of `folder` is taken here. Raises ShrinkRefused, InvalidArgument for ASIF and for
    impossible sizes, DiskInUse, NoSpace, FileTrouble, DamagedDisk, ForeignBacking, ToolMissing, ToolFailed.
    """
    with folder_lock(folder):
        return grow_own_disk(folder, size, declared)


def grow_own_disk(folder: Path, size: int, declared: str | None = None) -> Disk:
    """The same for a folder that is the caller's alone, whose file lock it may hold already, such as a work folder."""
    disk = chain_of(folder, declared).top
    if disk.format is DiskFormat.ASIF:
        raise InvalidArgument(f"the asif disk {disk.path} can only be resized on macOS")
    if size > qcow2.MAX_SIZE:
        raise InvalidArgument(f"a disk cannot have {size} bytes", f"the largest has {qcow2.MAX_SIZE}")
    grown = disk.grown_to(size if disk.format is DiskFormat.RAW else qcow2.rounded(size))
    if grown.size > disk.size:
        _grow_raw(grown) if grown.format is DiskFormat.RAW else _grow_qcow2(grown)
    return grown


def _grow_raw(disk: Disk) -> None:
    try:
        descriptor = os.open(disk.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, disk.size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise trouble_writing(disk.path, exc) from exc


def _grow_qcow2(disk: Disk) -> None:
    from tartlet.host.process import run_now  # brings anyio, which raw disks do without

    if not os.access(disk.path, os.W_OK):
        raise trouble_writing(disk.path, PermissionError(13, "Permission denied"))
    try:
        run_now("qemu-img", "resize", "-q", "-f", "qcow2", os.path.abspath(disk.path), str(disk.size))
    except ToolFailed as exc:
        if 'Failed to get "write" lock' in exc.stderr:
            raise DiskInUse(disk.path) from exc
        raise
