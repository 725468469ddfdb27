"""Guests that flood, stall, lie and send noise at our own agent's port: the host keeps its memory and its temper."""

from __future__ import annotations

import json
import os
import socket
import struct
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_agents import ended, started
from tartlet.errors import UserError
from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentFailed, AgentUnavailable
from tartlet.guest.own_agent.port_channel import Channel, End, exec_request
from tartlet.guest.own_agent.port_frames import Damaged, Frame, Frames, new_mark
from tartlet.guest.own_agent.port_session import TartAgent
from tartlet.guest.own_agent.tart_agent import (
    CREDIT,
    END,
    HEADER,
    HELLO,
    LARGEST,
    LOST,
    MAGIC,
    OUTPUT,
    PONG,
    TOKEN,
    WINDOW,
    frame,
)

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def session() -> AsyncGenerator[tuple[TartAgent, socket.socket]]:
    """The host's side, which runs, and the guest's end of the port for a test to misuse."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs:
        agent = TartAgent(ours)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.run)
            agent.port_opened()
            yield agent, theirs
            tasks.cancel_scope.cancel()


async def heard(port: socket.socket, size: int = 1 << 16) -> bytes:
    await anyio.wait_readable(port)
    return port.recv(size)


async def say(port: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[port.send(rest) :]
        except BlockingIOError:
            await anyio.wait_writable(port)


async def greet(agent: TartAgent, port: socket.socket) -> None:
    """What an honest agent does at first."""
    got = bytearray()
    while (at := got.find(MAGIC)) < 0 or len(got) < at + len(MAGIC) + TOKEN:
        got += await heard(port)
    await say(port, bytes(got[at : at + len(MAGIC) + TOKEN]) + frame(HELLO, 0, b'{"version": "1"}'))
    assert await agent.wait_ready(10)


async def outcome(agent: TartAgent) -> End:
    async def drop(_: bytes) -> None:
        pass

    async with agent.request(exec_request(Command(name="true"))) as channel:
        return await channel.outcome(drop, drop)


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (frame(END, 1, b"{"), AgentFailed, "is no answer"),
        (frame(END, 1, b"[" * 30_000), AgentFailed, "is no answer"),
        (frame(END, 1, b'{"code": "x"}'), AgentFailed, "is no answer"),
        (frame(END, 1, json.dumps({"error": "a\x1b[31m\nb" * 1000}).encode()), AgentFailed, r"^a\\x1b\[31m\\nb"),
        (frame(CREDIT, 1, struct.pack(">I", 0xFFFFFFFF)), AgentUnavailable, "grants more"),
        (frame(CREDIT, 1, b"x"), AgentUnavailable, "damaged"),
        (frame(LOST, 0), AgentUnavailable, "could not read"),
        (frame(OUTPUT, 1, b"x")[:-1] + b"y", AgentUnavailable, "damaged frame"),
        (HEADER.pack(OUTPUT, 1, 0xFFFF, 0), AgentUnavailable, "no frame"),
        (HEADER.pack(200, 1, 0, 0), AgentUnavailable, "no frame"),
    ],
)
async def test_lies_end_the_request_with_a_reason(answer: bytes, error: type[UserError], reason: str) -> None:
    async with session() as (agent, port):
        await greet(agent, port)

        async def lie() -> None:
            await heard(port)
            await say(port, answer)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lie)
            with anyio.fail_after(10), pytest.raises(error, match=reason):
                await outcome(agent)


async def test_nobody_may_send_more_than_was_granted() -> None:
    with socket.socket(socket.AF_UNIX) as nowhere:
        channel = Channel(TartAgent(nowhere), 1)
        for _ in range(WINDOW // (HEADER.size + LARGEST)):
            channel.arrived(Frame(OUTPUT, 1, bytes(LARGEST)))
        with pytest.raises(Damaged, match="more than it may"):
            channel.arrived(Frame(OUTPUT, 1, bytes(LARGEST)))


async def test_what_nobody_asked_for_is_dropped() -> None:
    async with session() as (agent, port):
        await greet(agent, port)
        for _ in range(50):
            await say(port, frame(OUTPUT, 77, bytes(LARGEST)) + frame(END, 78, b"{") + frame(PONG, 0, b"x"))

        async def answer() -> None:
            await heard(port)
            await say(port, frame(END, 1, b'{"code": 3}') + frame(OUTPUT, 1, b"late") + frame(END, 1, b"{}"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            assert (await outcome(agent)).code == 3


async def test_an_agent_that_does_not_introduce_itself_is_given_up_and_tried_again() -> None:
    async with session() as (agent, port):
        got = bytearray()
        while (at := got.find(MAGIC)) < 0 or len(got) < at + len(MAGIC) + TOKEN:
            got += await heard(port)
        await say(port, bytes(got[at : at + len(MAGIC) + TOKEN]) + frame(END, 0))
        await greet(agent, port)


async def test_a_flood_takes_no_memory_and_an_honest_agent_is_served_after_it() -> None:
    async with session() as (agent, port):
        noise = os.urandom(1 << 20)
        tracemalloc.start()
        try:
            with anyio.fail_after(60):
                for _ in range(40):
                    await say(port, noise)
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
        assert not agent.in_session()
        process = started(port)
        try:
            agent.port_closed()
            agent.port_opened()
            assert await agent.wait_ready(30)
            assert (await outcome(agent)).code == 0
        finally:
            ended(process)


async def test_a_guest_that_does_not_read_holds_nobody_up_and_takes_no_memory() -> None:
    async with session() as (agent, port):
        await greet(agent, port)
        tracemalloc.start()
        try:
            for _ in range(20):
                with anyio.move_on_after(0.05):
                    async with agent.request(exec_request(Command(name="cat", interactive=True))) as channel:
                        while True:
                            await channel.give(bytes(LARGEST))
            assert tracemalloc.get_traced_memory()[1] < 4 * WINDOW
        finally:
            tracemalloc.stop()


async def test_late_answers_to_older_knocks_are_skipped() -> None:
    async with session() as (agent, port):
        await say(port, b"".join(new_mark() + frame(HELLO, 0, b"{}") for _ in range(10)))
        await greet(agent, port)

        async def answer() -> None:
            await heard(port)
            await say(port, frame(END, 1, b'{"code": 0}'))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            assert (await outcome(agent)).code == 0


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(st.binary(max_size=200) | st.sampled_from([frame(OUTPUT, 3, b"abc"), MAGIC]), max_size=20))
def test_frames_of_noise_are_frames_or_damage(pieces: list[bytes]) -> None:
    frames = Frames()
    for piece in pieces:
        frames.add(piece)
        try:
            while (one := frames.next()) is not None:
                assert len(one.payload) <= LARGEST
        except Damaged:
            return


@settings(max_examples=200, deadline=None)
@given(payloads=st.lists(st.binary(max_size=500), max_size=8), size=st.integers(1, 64))
def test_frames_arrive_whole_however_they_are_cut(payloads: list[bytes], size: int) -> None:
    mark = new_mark()
    sent = b"noise" + mark + b"".join(frame(OUTPUT, number, payload) for number, payload in enumerate(payloads))
    frames, begun = Frames(), False
    got: list[tuple[int, bytes]] = []
    for start in range(0, len(sent), size):
        frames.add(sent[start : start + size])
        begun = begun or frames.found(mark)
        while begun and (one := frames.next()) is not None:
            got.append((one.channel, one.payload))
    assert got == list(enumerate(payloads))
