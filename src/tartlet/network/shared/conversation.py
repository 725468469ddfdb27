"""Questions and answers of any length over the sockets of `wire`, for an event loop."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import anyio

from tartlet.errors import UserError
from tartlet.network.shared import wire
from tartlet.network.shared.addresses import MacTaken

START = 15.0
"""Seconds a process that holds a network gets to answer; 0.2 when it has to start, else some 0.02 for a new VM."""


class Refused(UserError):
    """The network will not do what was asked."""


class Asking:
    """A connection to the process that holds a network. One question at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._alone = connection, anyio.Lock()

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Something that is answered without descriptors. Raises Refused, Hangup, TimeoutError."""
        told, _ = await self.asked(question)
        return told

    async def asked(self, question: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """The answer and its descriptors, now the caller's. Raises MacTaken, Refused, Hangup, TimeoutError."""
        async with self._alone:
            with anyio.fail_after(START, shield=True):  # else the answer would be taken for that to the next question
                await say(self._connection, question)
                told, descriptors = await hear(self._connection)
        if told.get("taken"):
            raise MacTaken(told["taken"])
        if "error" in told:
            raise Refused(told["error"], told["hint"])
        return told, descriptors


async def say(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send a message, and wait where the other side is slow to read; the descriptors stay open here. Raises Hangup."""
    *ahead, last = wire.in_pieces(message)
    for piece in ahead:
        await _sent(connection, piece, ())
    await _sent(connection, last, descriptors)


async def hear(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors, which are the caller's now. Raises Hangup."""
    pieces: list[dict[str, Any]] = []
    while True:
        await anyio.wait_readable(connection)
        told, descriptors = wire.receive(connection)
        pieces.append(told)
        if told.get("do") != "more":
            return wire.joined(pieces), descriptors


async def _sent(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int]) -> None:
    while True:
        try:
            return wire.send(connection, message, descriptors)
        except BlockingIOError:
            await anyio.wait_writable(connection)
