"""The flat content of a disk that stands on others, read through all of its files without making a copy.

Source: QEMU's docs/interop/qcow2.txt ("Cluster mapping"). Only what QEMU writes into the overlay of a VM is read:
no encryption, no compression, no data in other files.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Protocol

from tartlet.disk.chain import Chain
from tartlet.disk.model import Disk, DiskFormat
from tartlet.disk.qcow2 import DamagedDisk
from tartlet.errors import FileTrouble, UserError
from tartlet.image.format.source import RawSource

_FIELDS = struct.Struct(">20xI8xIIQ")
"""From the start of the header: cluster bits, encryption, L1 entries, offset of the L1 table."""

_UNREADABLE = (1 << 2) | (1 << 3) | (1 << 4)
"""Incompatible features: data in another file, another compression, sub-clusters."""

_LARGEST_TABLE = 32 * 1024 * 1024
"""Bytes of a table; QEMU opens no image with a larger one."""

_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_READS_AS_ZEROS = 1

_ZERO, _BELOW = -1, -2
"""Instead of a place in the file: the range is all zeros, or the file below tells."""

Run = tuple[int, int, int]
"""Start and end of a range of the disk, and where it begins in the file, or one of the two above."""


class UnreadableDisk(UserError):
    """A disk in a form that only QEMU reads."""

    def __init__(self, path: object, why: str) -> None:
        super().__init__(
            f"the disk {path} cannot be read: {why}", f"make it plain: qemu-img convert -O raw {path} plain.img"
        )


class _Level(Protocol):
    """One file of the chain."""

    descriptor: int

    def runs(self, start: int, end: int) -> Iterator[Run]:
        """The range in order and without gaps."""
        ...


class _RawLevel:
    def __init__(self, descriptor: int, disk: Disk) -> None:
        self.descriptor = descriptor
        self._source = RawSource(descriptor, disk.path)

    def runs(self, start: int, end: int) -> Iterator[Run]:
        at = start
        for first, last in self._source.data(start, end):
            if at < first:
                yield at, first, _ZERO
            yield first, last, first
            at = last
        if at < end:
            yield at, end, _ZERO


class _Qcow2Level:
    def __init__(self, descriptor: int, disk: Disk) -> None:
        self.descriptor, self._disk = descriptor, disk
        start = os.pread(descriptor, 104, 0)
        bits, encryption, entries, offset = _FIELDS.unpack_from(start)
        features = int.from_bytes(start[72:80], "big") if start[7] == 3 else 0
        if encryption or features & _UNREADABLE:
            raise UnreadableDisk(disk.path, "it is encrypted, or uses features of newer QEMU versions")
        self._cluster = 1 << bits
        self._l1 = self._table(offset, entries)
        self._l2 = lru_cache(maxsize=256)(self._l2_table)

    def runs(self, start: int, end: int) -> Iterator[Run]:
        first, last, place = start, start, _BELOW
        while last < end:
            stop = min(end, (last // self._cluster + 1) * self._cluster)
            found = self._place(last)
            goes_on = found == place if place < 0 else found == place + last - first
            if not goes_on and first < last:
                yield first, last, place
            if not goes_on or first == last:
                first, place = last, found
            last = stop
        if first < end:
            yield first, end, place

    def _place(self, at: int) -> int:
        """Where a byte of the disk lies in the file."""
        cluster, within = divmod(at, self._cluster)
        table, entry = divmod(cluster, self._cluster // 8)
        if table >= len(self._l1) or not self._l1[table] & _OFFSET:
            return _BELOW
        found = self._l2(table)[entry]
        if found & _COMPRESSED:
            raise UnreadableDisk(self._disk.path, "parts of it are compressed")
        if found & _READS_AS_ZEROS:
            return _ZERO
        return (found & _OFFSET) + within if found & _OFFSET else _BELOW

    def _l2_table(self, table: int) -> array[int]:
        return self._table(self._l1[table] & _OFFSET, self._cluster // 8)

    def _table(self, offset: int, entries: int) -> array[int]:
        raw = os.pread(self.descriptor, entries * 8, offset) if entries * 8 <= _LARGEST_TABLE else b""
        table = array("Q", raw[: len(raw) // 8 * 8])
        if len(table) != entries:
            raise DamagedDisk(self._disk.path, "a table of its clusters lies outside of it")
        if sys.byteorder == "little":
            table.byteswap()
        return table


class ChainSource:
    """The disk that the files of a chain make together."""

    def __init__(self, levels: Sequence[_Level], sizes: Sequence[int]) -> None:
        self._levels, self._sizes = levels, sizes

    @property
    def size(self) -> int:
        return self._sizes[0]

    def data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        first = last = start
        for at, stop, place, _ in self._runs(0, start, min(end, self.size)):
            if place == _ZERO:
                continue
            if at != last:
                if first < last:
                    yield first, last
                first = at
            last = stop
        if first < last:
            yield first, last

    def read(self, offset: int, length: int) -> bytes:
        parts: list[bytes] = []
        for start, end, place, descriptor in self._runs(0, offset, offset + length):
            part = b"" if place == _ZERO else os.pread(descriptor, end - start, place)
            parts.append(part.ljust(end - start, b"\0"))  # a cluster at the end of a file may be written in part
        return b"".join(parts)

    def is_untouched(self, start: int, end: int) -> bool:
        """Whether all of this range is still that of the lowest file; only tables are read. Raises OSError."""
        bottom = self._levels[-1].descriptor
        return all(descriptor == bottom for _, _, _, descriptor in self._runs(0, start, end))

    def _runs(self, level: int, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """The range from this file down, in order and without gaps, with the descriptor of the file that has it."""
        if level == len(self._levels):
            if start < end:
                yield start, end, _ZERO, -1
            return
        inside = max(start, min(end, self._sizes[level]))  # a base may be shorter than what stands on it
        for first, last, place in self._levels[level].runs(start, inside):
            if place == _BELOW:
                yield from self._runs(level + 1, first, last)
            else:
                yield first, last, place, self._levels[level].descriptor
        if inside < end:
            yield inside, end, _ZERO, -1


@contextmanager
def open_chain(chain: Chain) -> Generator[ChainSource]:
    """The content of a VM's disk for the length of the block, in which nobody may write to it.

    Raises FileTrouble, UnreadableDisk, DamagedDisk.
    """
    disks = (chain.top, *chain.bases)
    with ExitStack() as held:
        levels = [_level(held, disk) for disk in disks]
        yield ChainSource(levels, [disk.size for disk in disks])


def _level(held: ExitStack, disk: Disk) -> _Level:
    try:
        descriptor = os.open(disk.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise FileTrouble("cannot read", disk.path, exc) from exc
    held.callback(os.close, descriptor)
    return _Qcow2Level(descriptor, disk) if disk.format is DiskFormat.QCOW2 else _RawLevel(descriptor, disk)
