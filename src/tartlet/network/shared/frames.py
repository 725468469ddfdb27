"""The few Ethernet frames that it takes to see whether a user-mode network works (RFC 826, RFC 791, RFC 9293)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

BROADCAST = b"\xff" * 6
SYN, RST, ACK = 0x02, 0x04, 0x10
_ARP, _IPV4, _TCP = 0x0806, 0x0800, 6
_ETHERNET = struct.Struct("!6s6sH")
_ARP_BODY = struct.Struct("!HHBBH6s4s6s4s")
_IP_HEADER = struct.Struct("!BBHHHBBH4s4s")
_TCP_HEADER = struct.Struct("!HHIIBBHHH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A TCP segment without data."""

    source: IPv4Address
    source_port: int
    destination: IPv4Address
    destination_port: int
    sequence: int
    acknowledged: int = 0
    flags: int

    def answer(self, flags: int, sequence: int) -> Segment:
        """A segment back to where this one came from, acknowledging its SYN."""
        return Segment(
            source=self.destination,
            source_port=self.destination_port,
            destination=self.source,
            destination_port=self.source_port,
            sequence=sequence,
            acknowledged=(self.sequence + 1) % 2**32,
            flags=flags,
        )


def arp_question(mac: bytes, own: IPv4Address, wanted: IPv4Address) -> bytes:
    """Who has `wanted`? Tell `own`."""
    body = _ARP_BODY.pack(1, _IPV4, 6, 4, 1, mac, own.packed, b"\0" * 6, wanted.packed)
    return _ETHERNET.pack(BROADCAST, mac, _ARP) + body


def arp_answer(frame: bytes, wanted: IPv4Address) -> bytes | None:
    """The MAC address that `frame` says `wanted` has; None when it is another frame."""
    if len(frame) < _ETHERNET.size + _ARP_BODY.size or _ETHERNET.unpack_from(frame)[2] != _ARP:
        return None
    *_, operation, mac, address, _, _ = _ARP_BODY.unpack_from(frame, _ETHERNET.size)
    return bytes(mac) if operation == 2 and address == wanted.packed else None


def tcp_frame(segment: Segment, *, source: bytes, destination: bytes) -> bytes:
    """The frame that carries `segment` from one MAC address to the other."""
    addresses = segment.source.packed, segment.destination.packed
    tcp = _tcp_header(segment, 0)
    pseudo = b"".join(addresses) + struct.pack("!HH", _TCP, len(tcp))
    tcp = _tcp_header(segment, _checksum(pseudo + tcp))
    ip = _IP_HEADER.pack(0x45, 0, _IP_HEADER.size + len(tcp), 0, 0x4000, 64, _TCP, 0, *addresses)
    ip = ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:]
    return _ETHERNET.pack(destination, source, _IPV4) + ip + tcp


def segment_in(frame: bytes) -> Segment | None:
    """The TCP segment in a frame; None when it carries something else."""
    if len(frame) < _ETHERNET.size + _IP_HEADER.size or _ETHERNET.unpack_from(frame)[2] != _IPV4:
        return None
    first, *_, protocol, _, source, destination = _IP_HEADER.unpack_from(frame, _ETHERNET.size)
    start = _ETHERNET.size + (first & 0x0F) * 4
    if protocol != _TCP or len(frame) < start + _TCP_HEADER.size:
        return None
    source_port, destination_port, sequence, acknowledged, _, flags, *_ = _TCP_HEADER.unpack_from(frame, start)
    return Segment(
        source=IPv4Address(source),
        source_port=source_port,
        destination=IPv4Address(destination),
        destination_port=destination_port,
        sequence=sequence,
        acknowledged=acknowledged,
        flags=flags,
    )


def _tcp_header(segment: Segment, checksum: int) -> bytes:
    return _TCP_HEADER.pack(
        segment.source_port, segment.destination_port, segment.sequence, segment.acknowledged,
        _TCP_HEADER.size // 4 << 4, segment.flags, 65535, checksum, 0,
    )  # fmt: skip


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
