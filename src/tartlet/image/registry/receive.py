"""The body of an answer, received straight into buffers that are used again and again.

aiohttp gives out a body in copies of at most 256 KiB, which costs a fast transfer as much processor time as all else
around it. So the connection is lent to a protocol of asyncio's buffered kind, into whose memory the transport writes,
TLS or not; with the last byte aiohttp has it back and keeps it for the next request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator

import aiohttp
import anyio
from aiohttp.client_proto import ResponseHandler

from tartlet.image.registry import transport

_PART = 4 * 1024 * 1024
_BUFFERS = 3
"""Parts of a body in memory: one that comes, one that is taken in, and one between."""

_PATIENCE = 0.5
"""Seconds after which a part is given out although it is not full: a slow line shows progress, too."""

_PARTS_AT_ONCE = 4
"""Parts that are taken in before whoever does it is asked whether to go on: some hundredths of a second."""


class Parts:
    """The bytes that have come, in parts of a few MiB; while they are taken in, those that come meanwhile, too.

    To be iterated over once, in any one thread, which may take its time. A part holds until the next one is taken.
    """

    def __init__(self, take: Callable[[], memoryview | None]) -> None:
        self._take = take
        self.size = 0
        """Bytes that were taken so far."""

    def __iter__(self) -> Iterator[memoryview]:
        for _ in range(_PARTS_AT_ONCE):
            part = self._take()
            if part is None:
                return
            self.size += len(part)
            yield part


async def parts_of(response: aiohttp.ClientResponse, skip: int) -> AsyncGenerator[Parts]:
    """The body without its first `skip` bytes. What of some parts is not taken in comes again with the next ones.

    Close it (`contextlib.aclosing`) when it is not read to its end. Raises what is in `BROKEN`, when everything that
    came before was given out.
    """
    receiver, early = _taken_over(response)

    def take() -> memoryview | None:
        nonlocal skip
        while (part := early.popleft() if early else receiver.take() if receiver else None) is not None:
            left_out = min(skip, len(part))
            skip -= left_out
            if left_out < len(part):
                return part[left_out:]
        return None

    if receiver is None:
        async for data in response.content.iter_chunked(_PART):
            early.append(memoryview(data))
            yield Parts(take)
        return
    try:
        while early or await receiver.has_more():
            yield Parts(take)
    finally:
        receiver.give_back()


def _taken_over(response: aiohttp.ClientResponse) -> tuple[_Receiver | None, deque[memoryview]]:
    """A receiver, and what came before there was one. None when the length is unknown, or when all is there already.

    There must be no await in between: what comes then belongs to nobody.
    """
    connection, content, length = response.connection, response.content, response.content_length
    if connection is None or length is None or content.exception() or content.is_eof():
        return None, deque()
    handler, channel = connection.protocol, connection.transport
    if handler is None or channel is None or channel.is_closing():
        return None, deque()
    early = deque[memoryview]()
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
        self._free = deque(memoryview(bytearray(min(_PART, left))) for _ in range(min(_BUFFERS, -(-left // _PART))))
        self._full = deque[tuple[memoryview, int]]()
        self._lent: memoryview | None = None
        self._filling: memoryview | None = None
        self._at = 0
        self._failure: BaseException | None = None
        self._news, self._last_byte = anyio.Event(), 0.0
        self._loop = asyncio.get_running_loop()
        self._has_connection = left > 0
        if self._has_connection:
            handler.pause_reading()  # which stops its clock, too: it hears of no byte from here on
            channel.set_protocol(self)
            self._go_on()

    async def has_more(self) -> bool:
        """Wait until there is something to take; no at the end. Raises what is in `BROKEN`."""
        self._last_byte = anyio.current_time()
        while self._has_connection and not self._full and not self._failure:
            await self._something_new()
        if not self._full and self._failure:
            if not self._at:
                raise self._failure
            self._hand_over()  # what came is good: the next connection goes on behind it
        return bool(self._full)

    def take(self) -> memoryview | None:
        """A part that has come, and that holds until the next call; None when there is none. In any thread."""
        if self._lent is not None:
            self._free.append(self._lent)
            self._lent = None
            if self._filling is None and self._has_connection:
                self._loop.call_soon_threadsafe(self._go_on)
        if not self._full:
            return None
        self._lent, size = self._full.popleft()
        return self._lent[:size]

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
        self._news.set()
        if not self._left:
            self.give_back()
            self._handler.resume_reading()
            self._content.feed_eof()
        self._hand_over()

    def eof_received(self) -> None:
        """The other side sends no more: the transport closes itself."""
        self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended too early."""
        self._has_connection = False
        self._handler.connection_lost(exc)
        self._failure = self._content.exception() or aiohttp.ClientPayloadError(f"{self._left} bytes are missing")
        self._news.set()

    def _hand_over(self) -> None:
        """Let what came last be taken, and receive into another buffer."""
        assert self._filling is not None
        self._full.append((self._filling, self._at))
        self._filling, self._at = None, 0
        self._go_on()

    def _go_on(self) -> None:
        """Receive into a free buffer; nothing as long as there is none."""
        if not self._has_connection or self._filling is not None:
            return
        if self._free:
            self._filling, self._at = self._free.popleft(), 0
            self._channel.resume_reading()
        else:
            self._channel.pause_reading()

    async def _something_new(self) -> None:
        """Wait for something to take, or for the end of the connection or of the patience with it."""
        self._news = anyio.Event()
        given_up = self._last_byte + transport.STALL_SECONDS
        with anyio.CancelScope(deadline=min(given_up, anyio.current_time() + _PATIENCE)):
            await self._news.wait()
            return
        if self._at:
            self._hand_over()
        elif anyio.current_time() >= given_up:
            self._failure = aiohttp.SocketTimeoutError("no byte has come for too long")
