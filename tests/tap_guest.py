"""A guest made of frames: it holds a tap in QEMU's place, asks for an address, and sends what it likes."""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from tartlet.network.shared.frames import arp_answer, arp_question

BROADCAST = b"\xff" * 6
_HEADER = bytes(10)
"""`struct virtio_net_hdr` before each frame: nothing left to do for the other side."""
_BOOTP = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_MAGIC = bytes([99, 130, 83, 99])
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the DHCP server said."""

    kind: int
    address: IPv4Address
    options: dict[int, bytes] = field(default_factory=dict[int, bytes])


@dataclass(frozen=True, kw_only=True)
class TapGuest:
    """A guest with this MAC address on the tap that `descriptor` stands for."""

    descriptor: int
    mac: bytes

    def send(self, frame: bytes) -> None:
        """Put a frame on the cable."""
        os.write(self.descriptor, _HEADER + frame)

    def heard(self, within: float = 5.0) -> bytes | None:
        """The next frame from the cable; None when none comes in time."""
        ready, _, _ = select.select([self.descriptor], [], [], within)
        return os.read(self.descriptor, 1 << 17)[len(_HEADER) :] if ready else None

    def dhcp(self, kind: int, *options: bytes, source: str = "0.0.0.0", within: float = 5.0) -> Answer | None:
        """Say something to the DHCP server by broadcast; its answer, or None when there is none in time."""
        mark = int.from_bytes(os.urandom(4), "big")
        head = _BOOTP.pack(1, 1, 6, 0, mark, 0, 0x8000, *([bytes(4)] * 4), self.mac, b"", b"")
        body = head + _MAGIC + bytes([53, 1, kind]) + b"".join(options) + b"\xff"
        self.send(udp_frame(self.mac, BROADCAST, source, "255.255.255.255", 68, 67, body))
        return next((answer for frame in self.frames(within) if (answer := _answer_in(frame, mark))), None)

    def reaches(self, own: str, router: str, target: str, port: int, within: float = 5, **forged: str) -> bool:
        """Whether a datagram to `target` is answered. `forged` may give another source: `source="192.0.2.1"`."""
        hardware = self.hardware_of(own, router)
        if hardware is None:
            return False
        asked = os.urandom(8)
        self.send(udp_frame(self.mac, hardware, forged.get("source", own), target, 5555, port, asked))
        return any(asked in frame for frame in self.frames(within))

    def hardware_of(self, own: str, other: str, within: float = 5.0) -> bytes | None:
        """The MAC address of a machine on the same bridge; None when it does not answer in time."""
        wanted = IPv4Address(other)
        self.send(arp_question(self.mac, IPv4Address(own), wanted))
        return next((found for frame in self.frames(within) if (found := arp_answer(frame, wanted))), None)

    def frames(self, within: float) -> Iterator[bytes]:
        """What comes from the cable in this many seconds."""
        deadline = time.monotonic() + within
        while (left := deadline - time.monotonic()) > 0:
            frame = self.heard(left)
            if frame is not None:
                yield frame

    def leased(self, *options: bytes) -> Answer | None:
        """Discover, request, and what came of it. `options` go into both packets."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            offer = self.dhcp(DISCOVER, *options, within=1)
            if offer is not None:
                wanted = bytes([50, 4]) + offer.address.packed + bytes([54, 4]) + offer.options[54]
                return self.dhcp(REQUEST, wanted, *options)
        return None


def udp_frame(mac: bytes, to: bytes, source: str, target: str, source_port: int, port: int, body: bytes) -> bytes:
    """An Ethernet frame with a UDP datagram (without its optional checksum)."""
    udp = struct.pack("!HHHH", source_port, port, 8 + len(body), 0) + body
    addresses = IPv4Address(source).packed, IPv4Address(target).packed
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, *addresses)
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    return to + mac + b"\x08\x00" + header + udp


def arp_frame(mac: bytes, operation: int, sender: str, target: str, *, inner: bytes | None = None) -> bytes:
    """An ARP packet, broadcast. `inner` is the sender's MAC address that it tells, where that differs."""
    told = (inner or mac) + IPv4Address(sender).packed + bytes(6) + IPv4Address(target).packed
    return BROADCAST + mac + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + told


def _answer_in(frame: bytes, mark: int) -> Answer | None:
    if frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[36:38] != b"\x00\x44":
        return None
    bootp = frame[42:]
    told = _BOOTP.unpack_from(bootp)
    if told[4] != mark:
        return None
    options, rest = dict[int, bytes](), bootp[_BOOTP.size + len(_MAGIC) :]
    while rest and rest[0] != 255:
        options[rest[0]] = rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    return Answer(kind=options[53][0], address=IPv4Address(told[8]), options=options)


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
