"""A guest's vsock driver and QEMU in one, without a machine: it speaks to the real process that carries the device."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import tartlet
from tartlet.host.memory import memory_file
from tartlet.vsock.guest_memory import mapped
from tartlet.vsock.packets import HEADER, REQUEST, RESPONSE, STREAM, Header
from tartlet.vsock.program import ORDER

GUEST = 3
SIZE = 64
"""Entries of each ring."""

_MEMORY = 16 << 20
_USER = 0x7F0000000000
_DESCRIPTORS, _AVAILABLE, _USED, _BUFFERS, _RING = 0x0000, 0x1000, 0x2000, 0x100000, 0x10000
_ROOM = 0x18000
"""Bytes between buffers."""

_MESSAGE = struct.Struct("<III")
_DESCRIPTOR = struct.Struct("<QIHH")
_WRITE, _NEXT, _INDIRECT = 2, 1, 4
_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from tartlet.vsock.program import main; main()"


class Packet(NamedTuple):
    """What the device has sent."""

    header: Header
    data: bytes


class Ring:
    """The driver's side of one ring; buffer N is always the one at place N."""

    def __init__(self, number: int, memory: memoryview) -> None:
        self.number, self.memory = number, memory
        self.base = number * _RING
        # Single loads and stores, as a driver's are: `struct` writes zeroes first, which the device may see.
        self._words = memory[self.base : self.base + _RING].cast("H")
        self.kick, self.call = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        self.given = self.seen = 0

    def buffer(self, place: int) -> int:
        """The address of a buffer."""
        return _BUFFERS + (self.number * SIZE + place) * _ROOM

    def describe(self, place: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        """Write a descriptor."""
        at = self.base + _DESCRIPTORS + place * _DESCRIPTOR.size
        _DESCRIPTOR.pack_into(self.memory, at, address, length, flags, following)

    def give(self, head: int) -> None:
        """Make a chain available."""
        self._words[(_AVAILABLE + 4) // 2 + self.given % SIZE] = head
        self.given = (self.given + 1) & 0xFFFF
        self._words[(_AVAILABLE + 2) // 2] = self.given

    def ring(self) -> None:
        """Ring the device's bell."""
        os.eventfd_write(self.kick, 1)

    def used(self) -> tuple[int, int] | None:
        """The next chain that the device has given back, and how much it wrote; None when there is none."""
        if self._words[(_USED + 2) // 2] == self.seen:
            return None
        head, written = struct.unpack_from("<II", self.memory, self.base + _USED + 4 + 8 * (self.seen % SIZE))
        self.seen = (self.seen + 1) & 0xFFFF
        return int(head), int(written)


class Driver:
    """Both rings, and the words of QEMU."""

    def __init__(self, process: subprocess.Popen[bytes], qemu: socket.socket, orders: socket.socket) -> None:
        self.process, self.qemu, self.orders = process, qemu, orders
        qemu.settimeout(20)
        file = memory_file("guest", _MEMORY)
        assert file is not None
        self._file = file
        self.memory = mapped(file, 0, _MEMORY)
        self.to_guest, self.from_guest = Ring(0, self.memory), Ring(1, self.memory)
        self.forwarded = 0

    def ask(self, request: int, payload: bytes = b"", files: Sequence[int] = ()) -> None:
        """Say something as QEMU does."""
        socket.send_fds(self.qemu, [_MESSAGE.pack(request, 1, len(payload)) + payload], list(files))

    def answer(self) -> bytes:
        """What is answered."""
        _, _, size = _MESSAGE.unpack(self.qemu.recv(_MESSAGE.size, socket.MSG_WAITALL))
        return self.qemu.recv(size, socket.MSG_WAITALL)

    def alive(self) -> bool:
        """Whether it still answers."""
        self.ask(1)
        return bool(struct.unpack("<Q", self.answer())[0] >> 32 & 1)

    def start(self, bases: tuple[int, int] = (0, 0)) -> None:
        """What QEMU says when a driver has set the device up."""
        self.ask(5, struct.pack("<IIQQQQ", 1, 0, 0, _MEMORY, _USER, 0), [self._file])
        for ring, base in zip((self.to_guest, self.from_guest), bases, strict=True):
            at = _USER + ring.base
            self.ask(8, struct.pack("<II", ring.number, SIZE))
            self.ask(10, struct.pack("<II", ring.number, base))
            where = (at + _DESCRIPTORS, at + _USED, at + _AVAILABLE, 0)
            self.ask(9, struct.pack("<IIQQQQ", ring.number, 0, *where))
            self.ask(12, struct.pack("<Q", ring.number), [ring.kick])
            self.ask(13, struct.pack("<Q", ring.number), [ring.call])
        assert self.alive()

    def stop(self) -> tuple[int, int]:
        """What QEMU says when the guest is halted or reset; where each ring was."""
        found: list[int] = []
        for ring in (self.to_guest, self.from_guest):
            self.ask(11, struct.pack("<II", ring.number, 0))
            found.append(struct.unpack("<II", self.answer())[1])
        return found[0], found[1]

    def forget(self) -> None:
        """The guest begins anew, with empty rings."""
        for ring in (self.to_guest, self.from_guest):
            self.memory[ring.base : ring.base + _RING] = bytes(_RING)
            ring.given = ring.seen = 0

    def give_buffers(self, count: int = SIZE, size: int = 4096) -> None:
        """Room for packets of the device."""
        for place in range(count):
            self.to_guest.describe(place, self.to_guest.buffer(place), size, _WRITE)
            self.to_guest.give(place)
        self.to_guest.ring()

    def next(self, within: float = 10.0) -> Packet:
        """The next packet of the device."""
        said = self.heard(within)
        assert said is not None, "the device said nothing"
        return said

    def heard(self, within: float) -> Packet | None:
        """The next packet of the device, if it comes in time; its buffer is given to it again."""
        deadline = time.monotonic() + within
        while (used := self.to_guest.used()) is None:
            if time.monotonic() > deadline:
                return None
            select.select([self.to_guest.call], [], [], 0.05)
        head, written = used
        at = self.to_guest.buffer(head)
        raw = bytes(self.memory[at : at + written])
        self.to_guest.give(head)
        self.to_guest.ring()
        return Packet(Header.read(raw[: HEADER.size]), raw[HEADER.size :])

    def next_of(self, operation: int) -> Packet:
        """The next packet of this kind; others are passed over."""
        while (said := self.next()).header.operation != operation:
            pass
        return said

    def send(self, header: Header, data: bytes = b"", *, wait: bool = True) -> None:
        """One packet to the device, which has to take it."""
        ring, place = self.from_guest, self.from_guest.given % SIZE
        at = ring.buffer(place)
        raw = header.bytes() + data
        self.memory[at : at + len(raw)] = raw
        ring.describe(place, at, len(raw))
        ring.give(place)
        ring.ring()
        if wait:
            self.taken()

    def taken(self) -> None:
        """The device has taken the packet."""
        assert self.takes(10), "the device took nothing"

    def takes(self, within: float) -> bool:
        """Whether it takes the packet in time."""
        deadline = time.monotonic() + within
        while self.from_guest.used() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def connect(self, port: int = 8080) -> socket.socket:
        """Ask for a connection, as the supervisor does."""
        ours, theirs = socket.socketpair()
        ours.settimeout(20)
        with theirs:
            socket.send_fds(self.orders, [ORDER.pack(port)], [theirs.fileno()])
        return ours

    def reply(self, to: Header, operation: int, data: bytes = b"", *, flags: int = 0, room: int = 1 << 18) -> None:
        """A packet of the connection that `to` belongs to."""
        cids, ports = (to.target, to.source), (to.target_port, to.source_port)
        self.send(Header(*cids, *ports, len(data), STREAM, operation, flags, room, self.forwarded), data)

    def accepted(self, room: int = 1 << 18) -> tuple[socket.socket, Header]:
        """A connection that the guest has accepted: the host's end, and the request for it."""
        host = self.connect()
        request = self.next_of(REQUEST).header
        self.reply(request, RESPONSE, room=room)
        assert host.recv(1) == b"\1"
        return host, request

    def resident(self) -> int:
        """Bytes of memory that the process has to itself."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) << 10

    def close(self) -> None:
        """Give everything back."""
        for ring in (self.to_guest, self.from_guest):
            os.close(ring.kick)
            os.close(ring.call)
        os.close(self._file)


@contextmanager
def driver(*, started: bool = True, ends: bool = False) -> Generator[Driver]:
    """The process with a driver that has set the device up, for the length of the block.

    It may not end in it, unless it `ends` by what is done there.
    """
    qemu, theirs = socket.socketpair()
    orders, taken = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(Path(tartlet.__file__).parents[1])]
    words += [str(theirs.fileno()), str(taken.fileno()), str(GUEST)]
    with qemu, orders:
        with theirs, taken:
            process = subprocess.Popen(words, pass_fds=[theirs.fileno(), taken.fileno()])
        made = Driver(process, qemu, orders)
        try:
            if started:
                made.start()
                made.give_buffers()
            yield made
            if not ends:
                assert process.poll() is None, "the device has ended"
                qemu.close()
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
            made.close()
