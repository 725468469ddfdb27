"""A virtqueue in its split form (virtio 1.2, 2.7), seen from the device. The guest's half of it is never believed."""

from __future__ import annotations

import _thread
import os
import platform
import struct
from typing import NamedTuple

from tartlet.vsock.guest_memory import GuestMemory

_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT = 1
_LONGEST = 1024
"""Descriptors of one chain, and entries of a ring."""

_REORDERS_WRITES = platform.machine() not in ("x86_64", "AMD64")
"""Processors that reorder what others see of a program's writes."""

_FENCE = _thread.allocate_lock()


class Broken(Exception):
    """The guest's half of a ring makes no sense: nothing more is done with it until the guest starts it anew."""


class Chain(NamedTuple):
    """One buffer that the guest has given."""

    head: int
    """Its number, by which it is given back."""
    readable: list[memoryview]
    writable: list[memoryview]


class Addresses(NamedTuple):
    """Where the parts of a ring are, as QEMU sees them."""

    descriptors: int
    used: int
    available: int


class Ring:
    """One virtqueue; at first, and after `stop`, nothing arrives and nothing is taken."""

    def __init__(self) -> None:
        self.size = 0
        self.next = 0
        """Buffers taken so far, modulo 2^16."""
        self.addresses: Addresses | None = None
        self.kick, self.call = -1, -1
        """Event descriptors: the guest's bell, and ours."""
        self.runs = False
        self._memory = GuestMemory()
        self._news = False

    def start(self, memory: GuestMemory) -> None:
        """Begin to serve it. Raises Broken, BadAddress."""
        if self.addresses is None or not 0 < self.size <= _LONGEST or self.size & (self.size - 1):
            raise Broken("a ring without a place or a size")
        where, size = self.addresses, self.size
        self._memory = memory
        self._descriptors = memory.at_user(where.descriptors, _DESCRIPTOR.size * size)
        self._available = memory.at_user(where.available, 4 + 2 * size).cast("H")
        self._used = memory.at_user(where.used, 4 + _USED.size * size)
        # Single loads and stores: half an index would be another one.
        self._used_words = memory.at_user(where.used, 4).cast("H")
        self.runs = True

    def stop(self) -> None:
        """Serve it no more."""
        self.runs = False

    def take(self) -> Chain | None:
        """The next buffer; None when there is none. Raises Broken, BadAddress."""
        if not self.runs:
            return None
        waiting = (self._available[1] - self.next) & 0xFFFF
        if not waiting:
            return None
        if waiting > self.size:
            raise Broken("more buffers than the ring has places")
        _barrier()
        chain = self._chain(self._available[2 + self.next % self.size])
        self.next = (self.next + 1) & 0xFFFF
        return chain

    def give_back(self, chain: Chain, written: int) -> None:
        """The buffer is the guest's again, with `written` bytes in it; `tell` has to follow."""
        done = self._used_words[1]
        _USED.pack_into(self._used, 4 + _USED.size * (done % self.size), chain.head, written)
        _barrier()
        self._used_words[1] = (done + 1) & 0xFFFF
        self._news = True

    def tell(self) -> None:
        """Ring the guest's bell if it has got buffers back and wants to know."""
        if not self._news:
            return
        self._news = False
        _full_barrier()
        if self.runs and self.call >= 0 and not self._available[0] & _NO_INTERRUPT:
            os.eventfd_write(self.call, 1)

    def _chain(self, head: int) -> Chain:
        chain = Chain(head, [], [])
        table, entries, at = self._descriptors, self.size, head
        left, direct = entries, True
        while True:
            if at >= entries or not left:
                raise Broken("a chain that leads nowhere")
            left -= 1
            address, length, flags, following = _DESCRIPTOR.unpack_from(table, at * _DESCRIPTOR.size)
            if flags & _INDIRECT:
                if not direct or flags & _NEXT or length % _DESCRIPTOR.size or length > _LONGEST * _DESCRIPTOR.size:
                    raise Broken("an indirect table that cannot be one")
                table, entries, at = self._memory.at(address, length), length // _DESCRIPTOR.size, 0
                left, direct = entries, False
                continue
            (chain.writable if flags & _WRITE else chain.readable).append(self._memory.at(address, length))
            if not flags & _NEXT:
                return chain
            at = following


def gathered(buffers: list[memoryview], start: int, size: int) -> bytes:
    """`size` bytes from `start` on of what lies in these buffers, less when there are less."""
    found = bytearray()
    for buffer in buffers:
        if start >= len(buffer):
            start -= len(buffer)
            continue
        found += buffer[start : start + size - len(found)]
        start = 0
        if len(found) >= size:
            break
    return bytes(found)


def scattered(data: bytes, buffers: list[memoryview]) -> None:
    """Write `data` into the buffers, one after the other; it has to fit."""
    at = 0
    for buffer in buffers:
        piece = data[at : at + len(buffer)]
        buffer[: len(piece)] = piece
        at += len(piece)
        if at >= len(data):
            return


def _barrier() -> None:
    """What was written before is seen before what is written after: the scheduler passes a full barrier."""
    if _REORDERS_WRITES:
        os.sched_yield()


def _full_barrier() -> None:
    """What was written before is seen before anything is read after; x86 needs a locked instruction for that."""
    _barrier()
    with _FENCE:
        pass
