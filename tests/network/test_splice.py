"""Connections carried from one socket to another inside the kernel."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.to_thread
import pytest

from tartlet.host.beside import beside
from tartlet.network.shared import splice

pytestmark = [pytest.mark.anyio]


@asynccontextmanager
async def carried(behind: Callable[[socket.socket], None], room: int = 10) -> AsyncGenerator[tuple[str, int]]:
    """The address of a listener behind which `behind` handles each connection in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(client,)).start()

        def handle(client: socket.socket) -> None:
            with client:
                behind(client)

        async def reach() -> socket.socket:
            guest = socket.create_connection(server.getsockname())
            guest.setblocking(False)
            return guest

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            async with beside(partial(splice.serve, listener, reach, anyio.Semaphore(room))):
                yield listener.getsockname()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def echo(client: socket.socket) -> None:
    while piece := client.recv(65536):
        client.sendall(piece)


def exchanged(address: tuple[str, int], sent: bytes) -> bytes:
    """What comes back until the other side has said its last."""
    with socket.create_connection(address, timeout=20) as client:

        def write() -> None:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        got = bytearray()
        while piece := client.recv(65536):
            got += piece
        writer.join()
        return bytes(got)


async def test_many_bytes_go_both_ways_and_the_last_word_is_passed_on() -> None:
    sent = os.urandom(5 << 20)
    async with carried(echo) as address:
        assert await anyio.to_thread.run_sync(exchanged, address, sent) == sent


async def test_a_side_that_has_said_its_last_still_listens() -> None:
    def late(client: socket.socket) -> None:
        assert client.recv(100) == b"question"
        assert client.recv(100) == b""
        client.sendall(b"answer")

    async with carried(late) as address:
        assert await anyio.to_thread.run_sync(exchanged, address, b"question") == b"answer"


async def test_a_guest_that_cannot_be_reached_is_a_reset() -> None:
    async def reach() -> socket.socket:
        raise ConnectionRefusedError

    def connect() -> None:
        with socket.create_connection(listener.getsockname(), timeout=10) as client:
            client.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with beside(partial(splice.serve, listener, reach, anyio.Semaphore(1))):
            for _ in range(2):  # the place is free again afterwards
                with pytest.raises(ConnectionResetError):
                    await anyio.to_thread.run_sync(connect)


async def test_a_reset_of_one_side_reaches_the_other() -> None:
    gone = threading.Event()

    def hold(client: socket.socket) -> None:
        assert client.recv(1) == b"x"
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        gone.set()

    def reset(address: tuple[str, int]) -> None:
        client = socket.create_connection(address, timeout=10)
        client.sendall(b"x")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()

    async with carried(hold) as address:
        await anyio.to_thread.run_sync(reset, address)
        assert await anyio.to_thread.run_sync(gone.wait, 10)


async def test_further_connections_wait_for_a_place() -> None:
    async with carried(echo, room=2) as address:

        def crowd() -> list[bytes]:
            first, second, third = (socket.create_connection(address, timeout=10) for _ in range(3))
            with first, second, third:
                for client in (first, second, third):
                    client.sendall(b"x")
                told = [first.recv(1), second.recv(1)]
                third.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    third.recv(1)
                first.close()
                third.settimeout(10)
                return [*told, third.recv(1)]

        assert await anyio.to_thread.run_sync(crowd) == [b"x", b"x", b"x"]
