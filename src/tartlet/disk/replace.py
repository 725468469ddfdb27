"""Put another disk in the place of a VM's own (`set --disk`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tartlet.disk.chain import ForeignBacking, chain_of, drop_unused, folder_lock
from tartlet.disk.model import DISK, Disk, DiskFormat, inspect
from tartlet.errors import FileTrouble
from tartlet.host.copying import reflink, sparse_copy
from tartlet.host.files import sync_folder


def replacement(source: Path, temporary: Path, *, progress: Callable[[int], None] | None = None) -> Disk:
    """Copy `source`, a whole disk image or a block device, to the new file `temporary` (reflink, else sparse).

    The result tells its format, for the config. First step of replacing a disk; the caller removes `temporary` if
    the second does not follow. Raises ForeignBacking for an overlay, NoSpace, FileTrouble, DamagedDisk.
    """
    disk = inspect(source)
    if disk.backing:
        raise ForeignBacking(source, disk.backing[0])
    if not reflink(source, temporary):
        sparse_copy(source, temporary, sync=True, progress=progress)
    return Disk(path=temporary, format=disk.format, size=disk.size)


def replace_disk(folder: Path, temporary: Path) -> None:
    """Make `temporary` the disk of a VM folder on the same file system, in one step; bases of the old disk go.

    A new qcow2 disk is only believed when the config says so (see `inspect`): save `qcow2` before this and `raw`
    after it, then every moment has a disk that can be read. Takes the file lock of `folder`. Raises FileTrouble.
    """
    with folder_lock(folder):
        try:
            os.replace(temporary, folder / DISK)
            sync_folder(folder)
        except OSError as exc:
            raise FileTrouble("cannot replace the disk of", folder, exc) from exc
        drop_unused(folder, chain_of(folder, DiskFormat.QCOW2))
