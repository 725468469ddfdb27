"""Connections carried to servers at our own agent's side, which is a process of this host here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from guest_channels import served
from host_agents import agent_process, agents_served
from machines import MAC
from scripted_qga import scripted_qga
from tartlet.errors import FileTrouble
from tartlet.guest.client.port_forward import forwarded

pytestmark = pytest.mark.anyio

_ECHO = """\
import socket, sys, threading
server = socket.create_server((sys.argv[1], 0), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print(server.getsockname()[1], flush=True)
def echo(connection):
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
        connection.sendall(b"bye")
while True:
    threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()
"""


@dataclass
class Forward:
    port: int
    notes: list[str] = field(default_factory=list[str])


@pytest.fixture(scope="module", params=["127.0.0.1", "::1"])
def echo(request: pytest.FixtureRequest) -> Generator[int]:
    """The port of a server that says everything back, and then `bye`."""
    with subprocess.Popen([sys.executable, "-c", _ECHO, request.param], stdout=subprocess.PIPE) as process:
        assert process.stdout
        yield int(process.stdout.readline())
        process.kill()


@asynccontextmanager
async def forward(folder: Path, port: int) -> AsyncGenerator[Forward]:
    """Our own agent in front of the port."""
    notes: list[str] = []
    with agent_process() as (agent, _):
        async with agents_served(folder, agent), forwarded(folder, port, note=notes.append) as local:
            yield Forward(local, notes)


async def said(port: int, data: bytes) -> bytes:
    """Everything that comes back, read while it is sent; our direction ends first."""
    heard = bytearray()
    async with await anyio.connect_tcp("127.0.0.1", port) as stream, anyio.create_task_group() as tasks:

        async def send() -> None:
            await stream.send(data)
            await stream.send_eof()

        tasks.start_soon(send)
        async for piece in stream:
            heard += piece
    return bytes(heard)


async def test_bytes_and_ends_go_both_ways(echo: int, tmp_path: Path) -> None:
    async with forward(tmp_path, echo) as made:
        for size in (0, 1, 100_000, 3_000_000):
            data = os.urandom(size)
            assert await said(made.port, data) == data + b"bye"
        assert made.notes == []


async def test_many_side_by_side_and_one_that_nobody_reads(echo: int, tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def talk(port: int, data: bytes) -> None:
        heard.append(await said(port, data))

    async with forward(tmp_path, echo) as made:
        with socket.create_connection(("127.0.0.1", made.port)) as stalled:
            stalled.setblocking(False)
            while True:  # until every buffer on the way is full
                try:
                    stalled.send(bytes(100_000))
                except BlockingIOError:
                    break
            async with anyio.create_task_group() as tasks:
                for number in range(40):
                    tasks.start_soon(talk, made.port, b"%d " % number * 1000)
    assert sorted(heard) == sorted(b"%d " % number * 1000 + b"bye" for number in range(40))


async def test_a_port_where_nobody_listens_is_told(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with forward(tmp_path, port) as made:
            assert await said(made.port, b"") == b""
            with anyio.fail_after(20):
                while not made.notes:  # noqa: ASYNC110 - told after the connection has closed
                    await anyio.sleep(0.01)
            assert made.notes == [f"port {port} of the guest: Connection refused"]


async def test_a_client_that_goes_away_is_gone_for_the_server_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        async with forward(tmp_path, server.getsockname()[1]) as made:
            async with await anyio.connect_tcp("127.0.0.1", made.port) as stream:
                await stream.send(b"hello")
                accepted, _ = await anyio.to_thread.run_sync(server.accept)
            with accepted:
                accepted.settimeout(10)
                assert await anyio.to_thread.run_sync(accepted.recv, 100) == b"hello"
                assert await anyio.to_thread.run_sync(accepted.recv, 100) == b""


async def test_without_our_agent_it_is_refused_with_the_reason(tmp_path: Path) -> None:
    notes: list[str] = []
    with scripted_qga() as (port, _):
        async with served(tmp_path, port, MAC), forwarded(tmp_path, 22, note=notes.append) as local:
            assert await said(local, b"") == b""
            with anyio.fail_after(20):
                while len(notes) < 2:  # noqa: ASYNC110 - told after the connection has closed
                    await anyio.sleep(0.01)
    assert notes[0].endswith("cannot carry connections")
    assert notes[1].startswith("that takes Tartlet's own agent")


async def test_a_local_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(FileTrouble, match="cannot listen on 127"):
        async with forwarded(tmp_path, 22, local_port=taken.getsockname()[1], note=print):
            pass
