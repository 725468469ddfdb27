"""What a disk file is. Cheap to import and to ask: `list` looks at every VM's disk.

The format is read from the file, not from `config.json`: a clone puts an overlay in the place of the raw disk in one
step, and may be killed before the config tells of it. The config is a hint, and one that matters: a guest can write
whatever it likes into the first sector of a raw disk, a qcow2 header too.
"""

from __future__ import annotations

import enum
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from tartlet.disk import qcow2
from tartlet.disk.qcow2 import DamagedDisk
from tartlet.errors import UserError
from tartlet.units import human_size

DISK = "disk.img"
"""The disk of a VM folder; what stands below it is called `base.img`, `base-2.img` and so on."""

_BASE_NAME = re.compile(r"base(-[1-9][0-9]{0,8})?\.img")


class DiskFormat(enum.StrEnum):
    """How the guest's bytes lie in the file, in the words of `config.json` and of QEMU."""

    RAW = "raw"
    QCOW2 = "qcow2"
    ASIF = "asif"
    """Apple sparse image. Recognised and copied, never opened."""


class ShrinkRefused(UserError):
    """A disk can only grow: what its guest wrote at the end would be lost."""

    def __init__(self, path: Path, size: int, asked: int) -> None:
        now, wanted = human_size(size), human_size(asked)
        if now == wanted:
            now, wanted = f"{size} bytes", f"{asked} bytes"
        super().__init__(f"the disk {path} has {now} and cannot shrink to {wanted}")
        self.hint = f"ask for at least {now}"
        self.size, self.asked = size, asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A disk image on this host. A value: making one opens and checks nothing."""

    path: Path
    format: DiskFormat
    size: int
    """Bytes the guest sees. A sparse or qcow2 file takes less room than this."""
    backing: tuple[str, DiskFormat] | None = None
    """Of an overlay: the name of the file it stands on, in its own folder, and that file's format."""

    def grown_to(self, size: int) -> Disk:
        """The same disk with `size` bytes. Raises ShrinkRefused when that is smaller."""
        if size < self.size:
            raise ShrinkRefused(self.path, self.size, size)
        return replace(self, size=size)


def inspect(path: Path, declared: str | None = None) -> Disk:
    """What the file `path` is and how many bytes its guest sees.

    `declared` is what the VM's config calls it. Where that is `raw`, a header inside counts only if it names a base
    that stands beside the file: no guest can put one there, only a clone does. Without `declared` the content alone
    decides, which is right for files that no guest has written. Raises FileTrouble, DamagedDisk.
    """
    start, length = qcow2.read(path)
    try:
        found = _recognised(path, start)
    except DamagedDisk:
        if declared == DiskFormat.RAW:
            found = None
        else:
            raise
    if found and (declared != DiskFormat.RAW or _stands_on_a_base(found)):
        return found
    return Disk(path=path, format=DiskFormat.RAW, size=length)


def inspect_base(path: Path, kind: DiskFormat) -> Disk:
    """The same for a file that others stand on: they say what it is, its content is never asked.

    Raises FileTrouble, DamagedDisk.
    """
    if kind is DiskFormat.RAW:
        return Disk(path=path, format=kind, size=qcow2.read(path)[1])
    found = _recognised(path, qcow2.read(path)[0])
    if found is None or found.format is not kind:
        raise DamagedDisk(path, f"it should be a {kind} image")
    return found


def is_base_name(name: str) -> bool:
    """Whether a file of that name in a VM folder is one that disks stand on."""
    return _BASE_NAME.fullmatch(name) is not None


def allocated(path: str | os.PathLike[str]) -> int:
    """Bytes the file system gave to this file. Raises OSError."""
    return os.stat(path).st_blocks * 512


def _recognised(path: Path, start: bytes) -> Disk | None:
    if start[:4] == b"shdw":
        return Disk(path=path, format=DiskFormat.ASIF, size=_asif_size(path, start))
    header = qcow2.parse(start, path)
    if header is None:
        return None
    if header.data_file:
        raise DamagedDisk(path, "it keeps its data in another file, which is not supported")
    backing = None if header.backing_name is None else (header.backing_name, _base_format(path, header))
    return Disk(path=path, format=DiskFormat.QCOW2, size=header.size, backing=backing)


def _base_format(path: Path, header: qcow2.Header) -> DiskFormat:
    """Never guessed: the guest of a raw base decides what its first bytes look like."""
    if header.backing_format not in (DiskFormat.RAW, DiskFormat.QCOW2):
        raise DamagedDisk(path, f"the format of its base is {header.backing_format or 'not told'}")
    return DiskFormat(header.backing_format)


def _asif_size(path: Path, start: bytes) -> int:
    """Version 1 of the header: sectors at 0x30, bytes per sector at 0x44, both big-endian."""
    if len(start) < 0x46:
        raise DamagedDisk(path, "its header is cut short")
    return int.from_bytes(start[0x30:0x38]) * int.from_bytes(start[0x44:0x46])


def _stands_on_a_base(disk: Disk) -> bool:
    if disk.backing is None or not is_base_name(disk.backing[0]):
        return False
    try:
        return stat.S_ISREG(os.lstat(disk.path.parent / disk.backing[0]).st_mode)
    except OSError:
        return False
