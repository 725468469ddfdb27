"""Ends of this process's own pipes, as streams for the event loop; a thread may hold the other end."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio

_PIECE = 256 << 10


async def drained(descriptor: int) -> AsyncGenerator[bytes]:
    """What comes out of a pipe, to its end."""
    os.set_blocking(descriptor, False)
    while True:
        try:
            data = os.read(descriptor, _PIECE)
        except BlockingIOError:
            await anyio.wait_readable(descriptor)
            continue
        if not data:
            return
        yield data


def pouring(descriptor: int) -> Callable[[bytes], Awaitable[None]]:
    """A function that puts all of some bytes into a pipe. It raises BrokenPipeError."""
    os.set_blocking(descriptor, False)

    async def pour(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                await anyio.wait_writable(descriptor)

    return pour
