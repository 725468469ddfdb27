"""What the kernel remembers of an address's connections, forgotten when another VM may get the address.

Else the next guest would inherit them: packets of a former connection are translated as they were then. Messages are
those of linux/netfilter/nfnetlink_conntrack.h, over a netlink socket (netlink(7)) of the calling thread's namespace.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

from tartlet.network.shared.netlink import HEADER, NETFILTER, aligned, messages

log = logging.getLogger(__name__)

_GET, _DELETE = 0x101, 0x102
"""`NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET` and `_DELETE`."""

_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_FAMILY, _ATTRIBUTE = struct.Struct("=BBH"), struct.Struct("=HH")
_ORIGINAL, _REPLY = 1, 2
"""`CTA_TUPLE_ORIG`: the addresses as the first packet had them; `CTA_TUPLE_REPLY`: as answers have them."""

_TUPLE_IP, _SOURCE, _DESTINATION = 1, 1, 2
_KIND = 0x3FFF
_ROOM = 1 << 16


def forget(address: IPv4Address) -> int:
    """Delete what is known of connections from and to an address; how many there were. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) as kernel:
        kernel.settimeout(5)
        kernel.bind((0, 0))
        found = [original for original, addresses in _known(kernel) if address.packed in addresses]
        return sum(_deleted(kernel, original) for original in found)


def _known(kernel: socket.socket) -> Iterator[tuple[bytes, set[bytes]]]:
    """The original tuple of each connection, and all addresses that it goes by."""
    kernel.send(_asked(_GET, _REQUEST | _DUMP))
    while True:
        for kind, body in messages(kernel.recv(_ROOM)):
            if kind == _DONE:
                return
            if kind == _ERROR:
                _check(body)
            parts = dict(_attributes(body[_FAMILY.size :]))
            if _ORIGINAL in parts:
                yield parts[_ORIGINAL], {*_addresses(parts[_ORIGINAL]), *_addresses(parts.get(_REPLY, b""))}


def _deleted(kernel: socket.socket, original: bytes) -> bool:
    """Whether it was still there."""
    nested = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(original), _ORIGINAL | 0x8000) + original
    kernel.send(_asked(_DELETE, _REQUEST | _ACK, nested))
    for _, body in messages(kernel.recv(_ROOM)):
        try:
            _check(body)
        except FileNotFoundError:  # it has ended by itself
            return False
    return True


def _asked(kind: int, flags: int, attributes: bytes = b"") -> bytes:
    body = _FAMILY.pack(socket.AF_INET, 0, 0) + attributes
    return HEADER.pack(HEADER.size + len(body), kind, flags, 1, 0) + body


def _check(body: bytes) -> None:
    (number,) = struct.unpack_from("=i", body)
    if number:
        raise OSError(-number, f"the kernel's table of connections: {os.strerror(-number)}")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _KIND, data[_ATTRIBUTE.size : length]
        data = data[aligned(length) :]


def _addresses(one: bytes) -> Iterator[bytes]:
    for kind, nested in _attributes(one):
        if kind == _TUPLE_IP:
            yield from (told for which, told in _attributes(nested) if which in (_SOURCE, _DESTINATION))
