"""The packets of a vsock device (virtio 1.2, 5.10.6). Pure."""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = struct.Struct("<QQIIIHHIII")
HOST_CID = 2
STREAM = 1
"""The only type of connection that is known here."""

REQUEST, RESPONSE, RESET, SHUTDOWN, DATA, CREDIT, CREDIT_REQUEST = range(1, 8)
NO_MORE_RECEIVED, NO_MORE_SENT = 1, 2
"""Flags of SHUTDOWN, about whoever sends it."""

LARGEST = 64 << 10
"""Bytes of data in one packet."""

_WRAP = 1 << 32


class Header(NamedTuple):
    """What stands in front of each packet's data."""

    source: int
    target: int
    source_port: int
    target_port: int
    length: int
    """Bytes of data that follow."""
    kind: int
    operation: int
    flags: int
    room: int
    """Bytes the sender can keep for this connection in all."""
    forwarded: int
    """Bytes it has handed on to its application so far, modulo 2^32."""

    @classmethod
    def read(cls, data: bytes) -> Header:
        """From its 44 bytes."""
        return cls._make(HEADER.unpack(data))

    def bytes(self) -> bytes:
        """Its 44 bytes."""
        return HEADER.pack(*self)


def credit(room: int, forwarded: int, sent: int) -> int:
    """Bytes that a peer who told `room` and `forwarded` can keep more, after `sent` bytes; none when that is absurd."""
    under_way = (sent - forwarded) % _WRAP
    return max(0, room - under_way)
