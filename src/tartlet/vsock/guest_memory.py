"""A guest's memory, as QEMU shares it: files, and where the guest and QEMU see them. No address is believed."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import NamedTuple


class BadAddress(Exception):
    """An address outside of the guest's memory."""


class Region(NamedTuple):
    """One piece of it."""

    guest: int
    """The address at which the guest sees it."""
    size: int
    user: int
    """The address at which QEMU sees it."""
    content: memoryview


def mapped(file: int, offset: int, size: int) -> memoryview:
    """A part of a shared file. Raises OSError, ValueError."""
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    whole = memoryview(mmap.mmap(file, offset + size - start, offset=start))
    return whole[offset - start :]


class GuestMemory:
    """All of it. The files are unmapped when nobody holds a part of one any more."""

    def __init__(self, regions: Sequence[Region] = ()) -> None:
        self._regions = tuple(regions)

    def at(self, address: int, size: int) -> memoryview:
        """The bytes at an address of the guest. Raises BadAddress."""
        for region in self._regions:
            start = address - region.guest
            if 0 <= start <= region.size - size:
                return region.content[start : start + size]
        raise BadAddress(f"{size} bytes at {address:#x} of the guest")

    def at_user(self, address: int, size: int) -> memoryview:
        """The bytes at an address of QEMU's. Raises BadAddress."""
        for region in self._regions:
            start = address - region.user
            if 0 <= start <= region.size - size:
                return region.content[start : start + size]
        raise BadAddress(f"{size} bytes at {address:#x} of QEMU")
