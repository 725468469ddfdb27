"""The first serial port of a running VM, shared by whoever wants to read it or type into it.

QEMU itself writes the log of the port; what arrives here is for people who look on right now.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel

_PIECE = 64 << 10
_BACKLOG = 256
"""Pieces a reader may be behind."""
_LONGEST_LINE = 4096
"""Bytes kept of the line the guest is in."""
_LOST = b"\r\n[output was lost: it came faster than it was read]\r\n"


class ConsoleReader:
    """One reader. What it does not read in time is lost, and it is told so: the guest never waits for anybody."""

    def __init__(self, line: bytes) -> None:
        self._into, self._out = anyio.create_memory_object_stream[bytes](_BACKLOG)
        self._lost = False
        if line:
            self._into.send_nowait(line)

    async def next(self) -> bytes | None:
        """What the guest wrote since the last call; None when the VM has ended."""
        try:
            return await self._out.receive()
        except anyio.EndOfStream:
            return None

    def give(self, piece: bytes) -> None:
        """Another piece for this reader."""
        try:
            self._into.send_nowait(_LOST + piece if self._lost else piece)
            self._lost = False
        except anyio.WouldBlock:
            self._lost = True

    def end(self) -> None:
        """Nothing more will come."""
        self._into.close()

    def close(self) -> None:
        """Nobody reads any more."""
        self._into.close()
        self._out.close()


class SerialConsole:
    """Our end of the port."""

    def __init__(self, sock: socket.socket, said: Path | None = None) -> None:
        """`sock` is connected and becomes non-blocking; the caller keeps owning it.

        `said` is the port's log, in which the line of a guest that goes on where it was has begun. Raises OSError.
        """
        sock.setblocking(False)
        self._sock = sock
        self._readers: set[ConsoleReader] = set()
        self._line = _last_line(said) if said else b""
        """What the guest has written of its present line: the prompt, usually."""
        self._typing = anyio.Lock()
        self._ended = False

    async def pump(self) -> None:
        """Hand out what the guest writes until QEMU has ended. Somebody has to, or the guest's output is dropped."""
        try:
            while piece := await asyncio.get_running_loop().sock_recv(self._sock, _PIECE):
                self._line = (self._line + piece).rpartition(b"\n")[2][-_LONGEST_LINE:]
                for reader in self._readers:
                    reader.give(piece)
                await anyio.lowlevel.checkpoint()  # a guest that floods must not keep the loop from everything else
        except ConnectionError:  # QEMU was killed
            pass
        finally:
            self._ended = True
            for reader in self._readers:
                reader.end()

    @contextmanager
    def attached(self) -> Generator[ConsoleReader]:
        """Read along for the length of the block, from the beginning of the guest's present line on."""
        reader = ConsoleReader(self._line)
        self._readers.add(reader)
        try:
            if self._ended:
                reader.end()
            yield reader
        finally:
            self._readers.discard(reader)
            reader.close()

    async def type(self, data: bytes) -> None:
        """Send bytes to the guest; waits while it takes none. Those of several callers are not mixed within a call."""
        async with self._typing:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)


def _last_line(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE))
        return file.read().rpartition(b"\n")[2]
