"""The body of an answer, received straight into buffers that are used again and again.

aiohttp gives out a body in copies of at most 256 KiB, which costs a fast transfer as much processor time as all else
around it. So the connection is lent to a protocol of asyncio's buffered kind, into whose memory the transport writes,
TLS or not; with the last byte aiohttp has it back and keeps it for the next request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import aiohttp
import anyio
from aiohttp.client_proto import ResponseHandler

from tartlet.image.registry import transport

Parts = Sequence[memoryview]
"""Bytes that follow each other, in parts of at most a few MiB."""

_PART = 1024 * 1024
_BUFFERS = 4
"""Parts that a body may be ahead of who takes it in."""


async def parts_of(response: aiohttp.ClientResponse, skip: int) -> AsyncGenerator[Parts]:
    """The body without its first `skip` bytes: each time all that has come, which holds until the next time.

    Close it (`contextlib.aclosing`) when it is not read to its end. Raises what is in `BROKEN`, when everything that
    came before was given out.
    """
    body = _whole_body(response)
    try:
        async for parts in body:
            wanted: list[memoryview] = []
            for part in parts:
                left_out = min(skip, len(part))
                skip -= left_out
                wanted.append(part[left_out:])
            yield [part for part in wanted if part]
    finally:
        await body.aclose()


async def _whole_body(response: aiohttp.ClientResponse) -> AsyncGenerator[Parts]:
    receiver, early = _taken_over(response)
    if receiver is None:
        async for data in response.content.iter_chunked(_PART):
            yield [memoryview(data)]
        return
    try:
        if early:
            yield early
        while parts := await receiver.parts():
            yield parts
    finally:
        receiver.give_back()


def _taken_over(response: aiohttp.ClientResponse) -> tuple[_Receiver | None, Parts]:
    """A receiver, and what came before there was one. None when the length is unknown, or when all is there already.

    There must be no await in between: what comes then belongs to nobody.
    """
    connection, content, length = response.connection, response.content, response.content_length
    if connection is None or length is None or content.exception() or content.is_eof():
        return None, ()
    handler, channel = connection.protocol, connection.transport
    if handler is None or channel is None or channel.is_closing():
        return None, ()
    early: list[memoryview] = []
    while data := content.read_nowait():
        early.append(memoryview(data))
        length -= len(data)
    return _Receiver(content, handler, channel, length), early


class _Receiver(asyncio.BufferedProtocol):
    """Takes the last `left` bytes of a body from the connection (`channel`) of aiohttp's `handler`."""

    def __init__(
        self, content: aiohttp.StreamReader, handler: ResponseHandler, channel: asyncio.Transport, left: int
    ) -> None:
        self._content, self._handler, self._channel, self._left = content, handler, channel, left
        self._free = [memoryview(bytearray(min(_PART, left))) for _ in range(min(_BUFFERS, -(-left // _PART)))]
        self._full: list[memoryview] = []
        self._lent: list[memoryview] = []
        self._filling: memoryview | None = None
        self._at = 0
        self._failure: BaseException | None = None
        self._news, self._last_byte = anyio.Event(), 0.0
        self._has_connection = left > 0
        if self._has_connection:
            handler.pause_reading()  # which stops its clock, too: it hears of no byte from here on
            channel.set_protocol(self)
            self._go_on()

    async def parts(self) -> Parts:
        """All that has come; nothing at the end. What was given out before is not valid any more.

        Raises what is in `BROKEN`.
        """
        self._free += self._lent
        self._lent = []
        if self._has_connection and self._filling is None:
            self._go_on()
        self._last_byte = anyio.current_time()
        while self._has_connection and not self._full and not self._failure:
            await self._something_new()
        if not self._full and self._failure:
            if self._filling is None or not self._at:
                raise self._failure
            self._full, self._filling = [self._filling[: self._at]], None  # good: the next connection goes on behind it
        self._lent, self._full = self._full, []
        return self._lent

    def give_back(self) -> None:
        """Have no more to do with the connection. Before the last byte aiohttp closes it."""
        if self._has_connection:
            self._has_connection = False
            self._channel.pause_reading()
            self._channel.set_protocol(self._handler)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: never further than the body's end."""
        del sizehint
        if self._filling is None:
            raise RuntimeError("a paused connection has received something")
        return self._filling[self._at : self._at + self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have come."""
        assert self._filling is not None
        self._at += nbytes
        self._left -= nbytes
        self._last_byte = anyio.current_time()
        if self._left and self._at < len(self._filling):
            return
        self._full.append(self._filling[: self._at])
        self._filling = None
        self._news.set()
        if not self._left:
            self.give_back()
            self._handler.resume_reading()
            self._content.feed_eof()
        else:
            self._go_on()

    def eof_received(self) -> None:
        """The other side sends no more: the transport closes itself."""
        self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended too early."""
        self._has_connection = False
        self._handler.connection_lost(exc)
        self._failure = self._content.exception() or aiohttp.ClientPayloadError(f"{self._left} bytes are missing")
        self._news.set()

    def _go_on(self) -> None:
        """Receive into a free buffer; nothing as long as there is none."""
        if self._free:
            self._filling, self._at = self._free.pop(), 0
            self._channel.resume_reading()
        else:
            self._channel.pause_reading()

    async def _something_new(self) -> None:
        """Wait for a full buffer, or for the end of the connection or of the patience with it."""
        self._news = anyio.Event()
        with anyio.CancelScope(deadline=self._last_byte + transport.STALL_SECONDS):
            await self._news.wait()
        if anyio.current_time() >= self._last_byte + transport.STALL_SECONDS and not self._news.is_set():
            self._failure = aiohttp.SocketTimeoutError("no byte has come for too long")
