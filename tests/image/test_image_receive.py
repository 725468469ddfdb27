"""Bodies of answers as a server of the test sends them: whole, slow, cut, without a length, over TLS."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest
from anyio import to_thread

from tartlet.image.registry import transport
from tartlet.image.registry.receive import Parts, parts_of
from tartlet.units import MIB

BODY = random.Random(5).randbytes(21 * MIB + 12_345)
"""More than a receiver has room for."""
OK = b"HTTP/1.1 200 OK\r\n"

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers every request with `answer`."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.connections = 0
        self.url = ""

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await self.answer(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Server]:
    made = Server(answer)
    server = await asyncio.start_server(made.meet, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    made.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def client() -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False, read_bufsize=MIB) as session:
        yield session


async def whole(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)


async def take(session: aiohttp.ClientSession, url: str, data: bytearray, *, skip: int = 0, pause: float = 0) -> None:
    """Receive a body into `data`."""
    async with session.get(url, ssl=False) as response, aclosing(parts_of(response, skip)) as body:
        async for parts in body:
            await anyio.sleep(pause)
            await to_thread.run_sync(_add, data, parts)


def _add(data: bytearray, parts: Parts) -> None:
    for part in parts:
        data += part


async def received(session: aiohttp.ClientSession, url: str, *, skip: int = 0, pause: float = 0) -> bytes:
    data = bytearray()
    await take(session, url, data, skip=skip, pause=pause)
    return bytes(data)


@pytest.fixture(scope="module")
def tls(certificates: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "ours.pem", certificates / "ours.key")
    return context


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
async def test_one_connection_serves_body_after_body(is_tls: bool, tls: ssl.SSLContext) -> None:
    async with serving(whole, tls if is_tls else None) as server, client() as session:
        for _ in range(3):
            assert await received(session, server.url) == BODY
        assert server.connections == 1


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
async def test_who_is_slow_gets_all_of_it(is_tls: bool, tls: ssl.SSLContext) -> None:
    async with serving(whole, tls if is_tls else None) as server, client() as session:
        assert await received(session, server.url, pause=0.1) == BODY


@pytest.mark.parametrize("size", [0, 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 12 * MIB, 13 * MIB])
async def test_any_length(size: int) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % size)
        await writer.drain()
        await anyio.sleep(0.02)  # so that the body comes alone
        writer.write(BODY[:size])

    async with serving(answer) as server, client() as session:
        assert await received(session, server.url) == BODY[:size]
        assert await received(session, server.url, skip=size // 2) == BODY[size // 2 : size]
        assert server.connections == 1


@pytest.mark.parametrize("skip", [1, 4 * MIB, 9 * MIB + 7, len(BODY)])
async def test_the_beginning_is_left_out(skip: int) -> None:
    async with serving(whole) as server, client() as session:
        assert await received(session, server.url, skip=skip) == BODY[skip:]


async def test_an_answer_in_chunks() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(BODY), 700_001):
            part = BODY[at : at + 700_001]
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        writer.write(b"0\r\n\r\n")

    async with serving(answer) as server, client() as session:
        for _ in range(2):
            assert await received(session, server.url, skip=99) == BODY[99:]
        assert server.connections == 1


async def test_an_answer_that_ends_with_its_connection() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Connection: close\r\n\r\n" + BODY)
        writer.close()

    async with serving(answer) as server, client() as session:
        assert await received(session, server.url) == BODY


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("came", [100, 4 * MIB, 17 * MIB + 77])
async def test_what_came_before_a_cut_is_given_out(came: int, is_tls: bool, tls: ssl.SSLContext) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % len(BODY))
        await writer.drain()
        await anyio.sleep(0.05)
        writer.write(BODY[:came])
        await writer.drain()
        writer.close()

    data = bytearray()
    async with serving(answer, tls if is_tls else None) as server, client() as session:
        with pytest.raises(aiohttp.ClientPayloadError):
            await take(session, server.url, data)
    assert data == BODY[:came]


async def test_a_slow_line_shows_what_came() -> None:
    came = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: 6000000\r\n\r\n" + BODY[:1000])
        await writer.drain()
        await came.wait()
        writer.write(BODY[1000:6_000_000])

    async with serving(answer) as server, client() as session:
        async with session.get(server.url, ssl=False) as response, aclosing(parts_of(response, 0)) as body:
            data = bytearray()
            async for parts in body:
                _add(data, parts)
                came.set()
        assert data == BODY[:6_000_000]
        assert await received(session, server.url) == data
        assert server.connections == 1


async def test_what_came_before_silence_is_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "STALL_SECONDS", 1.0)

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % len(BODY))
        for at in range(12):  # slow, but no silence
            writer.write(BODY[at * 1000 : at * 1000 + 1000])
            await writer.drain()
            await anyio.sleep(0.1)
        await anyio.sleep(60)

    data = bytearray()
    async with serving(answer) as server, client() as session:
        with pytest.raises(aiohttp.SocketTimeoutError):
            await take(session, server.url, data)
    assert data == BODY[:12_000]


async def test_who_stops_early_leaves_no_connection_that_is_used_again() -> None:
    async with serving(whole) as server, client() as session:
        async with session.get(server.url) as response, aclosing(parts_of(response, 0)) as body:
            assert BODY.startswith(bytes(next(iter(await anext(body)))))
        assert await received(session, server.url) == BODY
        assert server.connections == 2
