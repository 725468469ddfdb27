"""Does a network process work? Asked in the guest's place, before there is a guest.

A process that runs is not yet a network that works. So the first connection through the forwarded port is made here,
and the guest's half of its handshake is played by hand.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from ipaddress import IPv4Address

import anyio

from tartlet.network.shared import frames
from tartlet.network.shared.frames import ACK, RST, SYN
from tartlet.network.shared.subnet import Subnet

_LENGTH = struct.Struct("!I")
_LONGEST = 1 << 17
_OUR_SEQUENCE = 1000


class TrialFailed(Exception):
    """The network process answered with nonsense, or hung up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the trial takes place: the guest's address, and the door to it on the host."""

    mac: bytes
    net: Subnet
    door: str
    port: int
    guest_port: int


async def connects(cable: socket.socket, place: Place) -> None:
    """Make one connection through the door and reset it; returns when it was completed. The caller sets the deadline.

    `cable` is QEMU's end of a stream in which a length of four bytes stands before each frame. It is left between two
    frames, so QEMU can have it next. Raises TrialFailed, OSError.
    """
    cable.setblocking(False)
    async with aclosing(_frames(cable)) as arriving:
        gateway = await _gateway_mac(cable, arriving, place)
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex((place.door, place.port))
            await anyio.wait_writable(client)
            client.send(b"\0")  # passt of 2023 (Debian 12) completes a connection only once its client speaks
            await _handshake(cable, arriving, place, gateway)


async def _gateway_mac(cable: socket.socket, arriving: AsyncGenerator[bytes], place: Place) -> bytes:
    await _send(cable, frames.arp_question(place.mac, place.net.guest, place.net.gateway))
    async for frame in arriving:
        if mac := frames.arp_answer(frame, place.net.gateway):
            return mac
    raise TrialFailed


async def _handshake(cable: socket.socket, arriving: AsyncGenerator[bytes], place: Place, gateway: bytes) -> None:
    async for frame in arriving:
        segment = frames.segment_in(frame)
        if segment is None or not _is_ours(segment, place.net.guest, place.guest_port):
            continue
        if segment.flags & SYN:
            answer = segment.answer(SYN | ACK, _OUR_SEQUENCE)
            await _send(cable, frames.tcp_frame(answer, source=place.mac, destination=gateway))
        elif segment.flags & RST:
            raise TrialFailed
        elif segment.flags & ACK and segment.acknowledged == _OUR_SEQUENCE + 1:
            reset = segment.answer(RST | ACK, segment.acknowledged)
            await _send(cable, frames.tcp_frame(reset, source=place.mac, destination=gateway))
            return
    raise TrialFailed


def _is_ours(segment: frames.Segment, guest: IPv4Address, port: int) -> bool:
    return segment.destination == guest and segment.destination_port == port


async def _frames(cable: socket.socket) -> AsyncGenerator[bytes]:
    """What arrives, frame by frame; ends when the other side hangs up."""
    while True:
        length = _LENGTH.unpack(await _exactly(cable, _LENGTH.size))[0]
        if length > _LONGEST:
            raise TrialFailed
        yield await _exactly(cable, length)


async def _exactly(cable: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        await anyio.wait_readable(cable)
        piece = cable.recv(size - len(got))
        if not piece:
            raise TrialFailed
        got += piece
    return got


async def _send(cable: socket.socket, frame: bytes) -> None:
    """A frame of less than 100 bytes always fits into the empty buffer of a fresh socket."""
    await anyio.wait_writable(cable)
    cable.sendall(_LENGTH.pack(len(frame)) + frame)
