"""What a VM folder's disk takes, and what deleting the folder would give back."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tartlet.disk.chain import chain_from, names_in
from tartlet.disk.model import DISK, Disk, inspect
from tartlet.errors import FileTrouble, UserError

_FIEMAP = 0xC020660B
"""`_IOWR('f', 11, struct fiemap)`; Linux, Documentation/filesystems/fiemap.rst."""
_REQUEST = struct.Struct("=QQLLLL")
"""Start, length, flags, extents mapped, room for extents, reserved."""
_EXTENT = struct.Struct("=QQQQQLLLL")
"""Logical, physical, length, two reserved, flags, three reserved."""
_LAST = 0x1
_SHARED = 0x2000
_AT_ONCE = 512


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


def freed_bytes(folder: Path) -> int:
    """Bytes of the file system that deleting `folder` would give back.

    A file with a name outside the folder frees nothing. Of a file that shares blocks by reflink, only the blocks
    that no other file uses count, where the file system tells. Raises FileTrouble.
    """
    try:
        return sum(_freed(path, found) for path, found in _gone_with(folder))
    except OSError as exc:
        raise FileTrouble("cannot measure", folder, exc) from exc


def _gone_with(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """One path of each file below `folder` whose last names would go with it."""
    names: dict[tuple[int, int], int] = {}
    for path in _entries(folder):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            continue
        key = (found.st_dev, found.st_ino)
        names[key] = names.get(key, 0) + 1
        if stat.S_ISREG(found.st_mode) and names[key] == found.st_nlink:
            yield path, found


def _entries(folder: Path) -> Iterator[Path]:
    for name in names_in(folder):
        path = folder / name
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _entries(path)


def _freed(path: Path, found: os.stat_result) -> int:
    return max(0, found.st_blocks * 512 - _shared(path)) if found.st_blocks else 0


def _shared(path: Path) -> int:
    """Bytes of the file that another file uses too; 0 where nobody can tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return 0
    try:
        return sum(length for length, flags in _extents(descriptor) if flags & _SHARED)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS):
            raise
        return 0
    finally:
        os.close(descriptor)


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Length and flags of each extent."""
    at, flags = 0, 0
    while not flags & _LAST:
        asked = bytearray(_REQUEST.size + _AT_ONCE * _EXTENT.size)
        _REQUEST.pack_into(asked, 0, at, (1 << 64) - 1 - at, 0, 0, _AT_ONCE, 0)
        fcntl.ioctl(descriptor, _FIEMAP, asked)
        count = _REQUEST.unpack_from(asked)[3]
        if not count:
            return
        for number in range(count):
            logical, _, length, _, _, flags, *_ = _EXTENT.unpack_from(asked, _REQUEST.size + number * _EXTENT.size)
            at = logical + length
            yield length, flags
