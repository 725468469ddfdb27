"""Frames as bytes, right or wrong in every field (RFC 826, 791, 768, 9293, 792)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

ARP, IPV4, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100
ICMP, TCP, UDP = 1, 6, 17
BROADCAST = "ff:ff:ff:ff:ff:ff"


def ethernet(destination: str, source: str, kind: int, payload: bytes) -> bytes:
    return _mac(destination) + _mac(source) + struct.pack("!H", kind) + payload


def arp(
    sender: str,
    sender_address: str,
    wanted: str,
    *,
    operation: int = 1,
    hardware: int = 1,
    lengths: tuple[int, int] = (6, 4),
) -> bytes:
    head = struct.pack("!HHBBH", hardware, IPV4, *lengths, operation)
    return head + _mac(sender) + _ip(sender_address) + bytes(6) + _ip(wanted)


def ipv4(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    offset: int = 0,
    more: bool = False,
) -> bytes:
    """A packet, or with `offset` (bytes) and `more` a fragment of one."""
    fragment = (0x2000 if more else 0) | offset // 8
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(payload), 77, fragment, 64, protocol, 0,
        _ip(source), _ip(destination),
    ) + options  # fmt: skip
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(source_port: int, port: int, data: bytes, *, length: int | None = None) -> bytes:
    return struct.pack("!HHHH", source_port, port, 8 + (len(data) if length is None else length), 0) + data


def tcp(source: str, destination: str, source_port: int, port: int, data: bytes, *, flags: int = 2) -> bytes:
    head = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 5 << 4, flags, 65535, 0, 0)
    pseudo = _ip(source) + _ip(destination) + struct.pack("!HH", TCP, len(head) + len(data))
    return head[:16] + struct.pack("!H", checksum(pseudo + head + data)) + head[18:] + data


def ping(data: bytes) -> bytes:
    head = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    return head[:2] + struct.pack("!H", checksum(head + data)) + head[4:] + data


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _mac(text: str) -> bytes:
    return bytes(int(octet, 16) for octet in text.split(":"))


def _ip(text: str) -> bytes:
    return IPv4Address(text).packed
