"""What a VM folder's disk takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tartlet.disk.chain import chain_from
from tartlet.disk.model import DISK, Disk, inspect
from tartlet.errors import FileTrouble, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUsage:
    """The disk of one VM folder in figures."""

    disk: Disk
    allocated: int
    """Bytes on this host that are this VM's alone; bases that other folders stand on too are not charged."""


def disk_usage(folder: Path, declared: str | None = None) -> DiskUsage:
    """Look at the disk of a VM folder, cheaply and without changing its access time.

    A base that is missing or makes no sense does not count: a listing goes on. Raises FileTrouble, DamagedDisk when
    the disk itself cannot be understood.
    """
    disk = inspect(folder / DISK, declared)
    try:
        bases = chain_from(disk).bases if disk.backing else ()
    except UserError:
        bases = ()
    try:
        alone = sum(_charged(base.path) for base in bases)
        return DiskUsage(disk=disk, allocated=os.stat(disk.path).st_blocks * 512 + alone)
    except OSError as exc:
        raise FileTrouble("cannot look at the disk", disk.path, exc) from exc


def _charged(base: Path) -> int:
    try:
        found = os.stat(base)
    except FileNotFoundError:  # merged away by a clone at this moment
        return 0
    return found.st_blocks * 512 if found.st_nlink == 1 else 0
