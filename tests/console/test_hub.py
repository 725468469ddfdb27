"""One serial port, many readers: nobody holds up the guest or another reader."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from tartlet.console.hub import ConsoleReader, SerialConsole

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def console() -> AsyncGenerator[tuple[SerialConsole, socket.socket]]:
    """A console and the guest's end of it."""
    ours, guest = socket.socketpair()
    with ours, guest:
        async with anyio.create_task_group() as tasks:
            hub = SerialConsole(ours)
            tasks.start_soon(hub.pump)
            yield hub, guest
            guest.close()  # ends the pump


async def read(reader: ConsoleReader, size: int) -> bytes:
    text = b""
    with anyio.fail_after(5):
        while len(text) < size:
            piece = await reader.next()
            assert piece is not None, text
            text += piece
    return text


async def test_every_reader_gets_everything_from_the_present_line_on() -> None:
    async with console() as (hub, guest):
        with hub.attached() as early:
            guest.sendall(b"first line\nlogin: ")
            assert await read(early, 18) == b"first line\nlogin: "
            with hub.attached() as late:
                guest.sendall(b"admin")
                assert await read(late, 12) == b"login: admin"
                assert await read(early, 5) == b"admin"


async def test_a_reader_that_sleeps_loses_output_and_holds_up_nobody() -> None:
    async with console() as (hub, guest):
        guest.setblocking(False)
        with hub.attached() as asleep, hub.attached() as awake:
            for number in range(600):
                line = b"%04d\n" % number
                guest.send(line)
                assert await read(awake, 5) == line
            found = await read(asleep, 5 * 256)
            assert found.startswith(b"0000\n0001\n")
            guest.send(b"now\n")
            assert await awake.next() == b"now\n"
            assert (await read(asleep, 1)).endswith(b"faster than it was read]\r\nnow\n")


async def test_typing_reaches_the_guest_and_the_end_reaches_every_reader() -> None:
    async with console() as (hub, guest):
        await hub.type(b"ls\n")
        assert guest.recv(10) == b"ls\n"
        with hub.attached() as reader:
            guest.close()
            with anyio.fail_after(5):
                assert await reader.next() is None
        with hub.attached() as later:
            assert await later.next() is None
