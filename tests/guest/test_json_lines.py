"""Lines from an untrusted peer: cut anywhere, too long, with marks in between."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Generator

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tartlet.guest.qga.json_lines import Lines, LineTooLong, PeerGone

pytestmark = pytest.mark.anyio


@pytest.fixture
def pair() -> Generator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@given(
    st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"").replace(b"\xff", b""))), st.integers(1, 9)
)
def test_however_the_bytes_are_cut_the_lines_are_the_same(wanted: list[bytes], step: int) -> None:
    sent = b"".join(line + b"\n" for line in wanted)

    async def read() -> list[bytes]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            lines = Lines(ours)
            read: list[bytes] = []
            position: int = 0
            for _ in wanted:
                async with anyio.create_task_group() as tasks:

                    async def trickle() -> None:
                        nonlocal position
                        while position < len(sent):
                            theirs.send(sent[position : position + step])
                            position += step
                            await anyio.lowlevel.checkpoint()

                    tasks.start_soon(trickle)
                    read.append(bytes(await lines.next()))
                    tasks.cancel_scope.cancel()
            return read

    assert anyio.run(read) == wanted


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (b"\xff{}\n", b"{}"),
        (b'{"half\xff{}\n', b"{}"),
        (b"\xff\xff\xff\xff\n", b""),
        (b"a\xffb\xffc\n", b"c"),
        (b"\r\n", b"\r"),
    ],
)
async def test_a_mark_makes_what_came_before_it_forgotten(
    pair: tuple[socket.socket, socket.socket], sent: bytes, line: bytes
) -> None:
    ours, theirs = pair
    theirs.send(sent)
    assert bytes(await Lines(ours).next()) == line


async def test_a_line_that_is_too_long_is_passed_over_and_the_next_one_is_read(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    lines = Lines(ours, longest=100)
    theirs.send(b"x" * 5000 + b"\nnext\n")
    with pytest.raises(LineTooLong):
        await lines.next()
    assert bytes(await lines.next()) == b"next"


async def test_an_endless_line_takes_no_memory(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.setblocking(False)
    lines = Lines(ours, longest=1 << 20)
    tracemalloc.start()
    try:
        async with anyio.create_task_group() as tasks:

            async def flood() -> None:
                for _ in range(400):
                    await anyio.wait_writable(theirs)
                    theirs.send(b"y" * 65536)
                tasks.cancel_scope.cancel()

            tasks.start_soon(flood)
            await lines.next()
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


async def test_cancelling_loses_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    lines = Lines(ours)
    theirs.send(b"fir")
    with anyio.move_on_after(0.05):
        await lines.next()
    theirs.send(b"st\nsecond\n")
    assert [bytes(await lines.next()), bytes(await lines.next())] == [b"first", b"second"]


async def test_the_end_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(b"unfinished")
    theirs.close()
    with pytest.raises(PeerGone):
        await Lines(ours).next()
