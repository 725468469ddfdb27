"""The two streams of a page over WebSockets. Neither is read faster than its other end takes it."""

from __future__ import annotations

import asyncio
import logging
import socket

import anyio
from aiohttp import WSMsgType, web

from tartlet.console.hub import ConsoleReader, SerialConsole

log = logging.getLogger(__name__)

ENDED = 4000
"""The close code that tells the page that the VM no longer runs."""

_PIECE = 64 << 10
_UNSEEN = 512 << 10
"""Bytes of the terminal's output that the page may not have shown yet; what comes meanwhile waits in the hub."""


async def screen(ws: web.WebSocketResponse, sock: socket.socket) -> None:
    """Join the page's VNC client to QEMU's server until one of them has gone. `sock` is non-blocking."""
    loop = asyncio.get_running_loop()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_pictured, sock, ws)
        try:
            async for message in ws:
                if message.type is WSMsgType.BINARY:
                    await loop.sock_sendall(sock, message.data)
        except ConnectionError:
            log.debug("QEMU has hung up")
        tasks.cancel_scope.cancel()


async def _pictured(sock: socket.socket, ws: web.WebSocketResponse) -> None:
    loop = asyncio.get_running_loop()
    try:
        while piece := await loop.sock_recv(sock, _PIECE):
            await ws.send_bytes(piece)
    except ConnectionError:
        log.debug("QEMU or the page has gone")
    await ws.close()


async def terminal(ws: web.WebSocketResponse, console: SerialConsole) -> None:
    """Join the page's terminal to the guest's serial port until the page or the VM has gone.

    Binary messages are bytes of the port. A text message of the page tells how many it has shown since the last one.
    """
    window = _Window()
    with console.attached() as reader:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_said, reader, ws, window)
            try:
                async for message in ws:
                    if message.type is WSMsgType.BINARY:
                        await console.type(message.data)
                    elif not window.has_shown(str(message.data)):
                        break
            except ConnectionError:
                log.debug("the guest has gone")
            tasks.cancel_scope.cancel()


async def _said(reader: ConsoleReader, ws: web.WebSocketResponse, window: _Window) -> None:
    try:
        while (piece := await reader.next()) is not None:
            await window.room()
            window.unseen += len(piece)
            await ws.send_bytes(piece)
        await ws.close(code=ENDED)
    except ConnectionError:
        log.debug("the page has gone")


class _Window:
    """How far the page is behind: a browser takes what it is sent, and would keep all that it has no time to show."""

    def __init__(self) -> None:
        self.unseen = 0
        self._moved = anyio.Event()

    async def room(self) -> None:
        """Wait until the page has caught up."""
        while self.unseen >= _UNSEEN:
            self._moved = anyio.Event()
            await self._moved.wait()

    def has_shown(self, count: str) -> bool:
        """The page's word for it; False for nonsense."""
        if not count.isdecimal() or int(count) > self.unseen:
            return False
        self.unseen -= int(count)
        self._moved.set()
        return True
