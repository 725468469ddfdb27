"""Which address a guest uses, heard from what it says itself where its cable ends on the host (packet(7)).

It names its address in every ARP packet (RFC 826), and in the DHCP packet by which it takes a lease (RFC 2131). So it
need not talk to this host, nor does the DHCP server have to be ours.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import AsyncGenerator, Sequence
from ipaddress import IPv4Address

import anyio

from tartlet.network.lookup.leases import mac_bytes

_ALL = 0x0003
_SO_ATTACH_FILTER, _SO_LOCK_FILTER = 26, 44
_WORD, _HALF, _BYTE, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06
"""Instructions of the classic packet filter (linux/filter.h): absolute loads, a comparison, the verdict."""

_INSTRUCTION = struct.Struct("=HBBI")
_LONGEST = 2048
_ADDRESS = 4
"""Bytes; a pipe takes and gives so few at once."""

_PAUSE = 0.2
"""Seconds between two addresses that are told. The guest decides how often its address changes."""

_TYPE, _ARP, _IPV4 = 12, 0x0806, 0x0800
_SOURCE_MAC, _ARP_MAC, _ARP_ADDRESS, _ARP_END = 6, 22, 28, 42
_IP_START, _PLAIN_HEADER, _PROTOCOL, _UDP, _PORT, _DHCP_SERVER = 14, 0x45, 23, 17, 36, 67
_CLIENT_ADDRESS, _OPTIONS, _MESSAGE_TYPE, _REQUESTED, _REQUEST, _PADDING, _END = 54, 282, 53, 50, 3, 0, 255
"""Places in a frame and what is looked for there, down to the options of a DHCP packet."""

_Check = tuple[int, int, int]
"""A load, a place, and what has to be there."""


def opened(interface: str, mac: str) -> socket.socket:
    """A socket that gets what the machine with this MAC address says of its own address on the interface.

    What it gets cannot be changed any more. Raises OSError.
    """
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # deaf until it is bound, so nothing else gets in
    try:
        program = _program(mac_bytes(mac) or b"")
        code = ctypes.create_string_buffer(program, len(program))
        told = struct.pack("HP", len(program) // _INSTRUCTION.size, ctypes.addressof(code))
        ear.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, told)
        ear.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
        ear.setblocking(False)
        # All protocols: the bridge takes a frame before those who ask for one protocol get it.
        ear.bind((interface, _ALL))
    except BaseException:
        ear.close()
        raise
    return ear


async def heard(ear: socket.socket) -> AsyncGenerator[IPv4Address]:
    """Each address that the guest names as its own, when it is another one than before. Raises OSError."""
    last: IPv4Address | None = None
    while True:
        await anyio.wait_readable(ear)
        address = _latest(ear)
        if address and address != last:
            last = address
            yield address


async def relay(ear: socket.socket, pipe: int) -> None:
    """Tell each address to a pipe that does not block; return when nobody reads it any more. Raises OSError.

    For somebody without rights: with the socket itself he could send whatever he likes, on any interface of the host.
    """
    async for address in heard(ear):
        try:
            os.write(pipe, address.packed)
        except BlockingIOError:  # he does not read: then he need not know
            continue
        except BrokenPipeError:
            return
        await anyio.sleep(_PAUSE)


async def relayed(pipe: int) -> AsyncGenerator[IPv4Address]:
    """The addresses that another process tells; ends when that one has."""
    while True:
        await anyio.wait_readable(pipe)
        told = os.read(pipe, _ADDRESS)
        if len(told) < _ADDRESS:
            return
        yield IPv4Address(told)


def _latest(ear: socket.socket) -> IPv4Address | None:
    """The last address in the packets that wait."""
    address: IPv4Address | None = None
    try:
        while True:
            address = named_in(ear.recv(_LONGEST)) or address
    except BlockingIOError:
        return address
    except OSError as exc:
        if exc.errno != errno.ENETDOWN:  # that is told once, and the ear hears again when the interface is up again
            raise
        return address


def named_in(frame: bytes) -> IPv4Address | None:
    """The address that the sender of an ARP packet has, or of a DHCP request wants; None where there is none."""
    told = frame[_ARP_ADDRESS:_ARP_END][:4] if frame[_TYPE:_IP_START] == _ARP.to_bytes(2) else _requested(frame)
    if len(told) != 4:
        return None
    address = IPv4Address(told)
    usable = not (address.is_unspecified or address.is_link_local or address.is_loopback or address.is_multicast)
    return address if usable else None


def _requested(frame: bytes) -> bytes:
    """What a DHCP request asks for: a renewal by its own address, a new lease by an option."""
    options, rest = dict[int, bytes](), frame[_OPTIONS:]
    while len(rest) > 1 and rest[0] != _END:
        if rest[0] == _PADDING:
            rest = rest[1:]
            continue
        options[rest[0]] = rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    if options.get(_MESSAGE_TYPE) != bytes([_REQUEST]):
        return b""
    return options.get(_REQUESTED) or frame[_CLIENT_ADDRESS : _CLIENT_ADDRESS + 4]


def _program(mac: bytes) -> bytes:
    """Let pass, whole, what can name the address of `mac`; drop the rest."""
    high, low = struct.unpack("!IH", mac)
    arp = [(_HALF, _TYPE, _ARP), (_WORD, _ARP_MAC, high), (_HALF, _ARP_MAC + 4, low)]
    dhcp = [
        (_HALF, _TYPE, _IPV4),
        (_WORD, _SOURCE_MAC, high),
        (_HALF, _SOURCE_MAC + 4, low),
        (_BYTE, _IP_START, _PLAIN_HEADER),
        (_BYTE, _PROTOCOL, _UDP),
        (_HALF, _PORT, _DHCP_SERVER),
    ]
    return _passing(arp) + _passing(dhcp) + _INSTRUCTION.pack(_RETURN, 0, 0, 0)


def _passing(checks: Sequence[_Check]) -> bytes:
    """Let a frame pass for which all checks hold, else go on with what follows."""
    code = list[bytes]()
    for number, (load, place, wanted) in enumerate(checks):
        to_the_end = 2 * (len(checks) - number) - 1
        code += [_INSTRUCTION.pack(load, 0, 0, place), _INSTRUCTION.pack(_JUMP_EQUAL, 0, to_the_end, wanted)]
    return b"".join([*code, _INSTRUCTION.pack(_RETURN, 0, 0, 0xFFFF)])
