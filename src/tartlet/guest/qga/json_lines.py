"""Lines from a peer that is not trusted: of bounded length, in bounded memory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import anyio.lowlevel

from tartlet.errors import UserError

LONGEST_LINE = 32 << 20
"""Bytes of one line; a longer one is passed over without being kept."""

_PIECE = 256 << 10
"""Bytes read at once."""

_RESET = b"\xff"
"""A byte that no JSON text holds: the QEMU guest agent marks with it that what came before is to be forgotten."""


class LineTooLong(UserError):
    """The peer sent a line longer than LONGEST_LINE."""

    def __init__(self) -> None:
        super().__init__(f"the guest agent's answer is longer than {LONGEST_LINE >> 20} MiB")


class PeerGone(UserError):
    """The peer has closed the connection."""

    def __init__(self) -> None:
        super().__init__("QEMU has closed the guest agent's port")


class Lines:
    """The lines that arrive at a connected, non-blocking stream socket. Reads only while somebody waits for a line."""

    def __init__(self, sock: socket.socket, longest: int = LONGEST_LINE) -> None:
        self._sock = sock
        self._longest = longest
        self._held = bytearray()
        self._looked = 0
        """Bytes of `_held` that are known to hold no line's end."""
        self._skipping = False
        """The line whose rest comes next was too long."""
        self.on_progress: Callable[[], None] = lambda: None
        """Called for each piece that arrives."""

    async def next(self) -> bytes | bytearray:
        """The next line without its end; what stands before a reset mark is left out. Raises LineTooLong, PeerGone.

        Cancelling loses nothing.
        """
        while True:
            end = self._held.find(b"\n", self._looked)
            if end >= 0:
                line = self._taken(end)
                if self._skipping or end > self._longest:
                    self._skipping = False
                    raise LineTooLong
                return line
            self._looked = len(self._held)
            if self._looked > self._longest:
                self._skipping = True
            if self._skipping:
                self._held.clear()
                self._looked = 0
            await self._more()

    def _taken(self, end: int) -> bytes | bytearray:
        """The first `end` bytes as a line, without a copy when nothing follows them."""
        if end == len(self._held) - 1:
            line, self._held = self._held, bytearray()
            del line[end:]
        else:
            line = self._held[:end]
            del self._held[: end + 1]
        self._looked = 0
        mark = line.rfind(_RESET)
        return line if mark < 0 else line[mark + 1 :]

    async def _more(self) -> None:
        # A peer that floods must not keep the event loop from everything else: sock_recv does not wait for ready data.
        await anyio.lowlevel.checkpoint()
        try:
            piece = await asyncio.get_running_loop().sock_recv(self._sock, _PIECE)
        except ConnectionError as exc:
            raise PeerGone from exc
        if not piece:
            raise PeerGone
        self.on_progress()
        self._held += piece
