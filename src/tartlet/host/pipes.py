"""Ends of this process's own pipes, as streams for the event loop; a thread may hold the other end."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
import anyio.to_thread

from tartlet.errors import UserError

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


async def joined(
    work: Callable[[], Awaitable[None]], in_thread: Callable[[], None], ours: int
) -> tuple[Exception | None, Exception | None]:
    """Both ends of a pipe, one of them in a thread, which ends by itself once our end is closed.

    Gives what failed in the thread and what failed here; one failure mostly brings the other.
    """
    told: Exception | None = None
    ran: Exception | None = None

    async def beside() -> None:
        nonlocal told
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(in_thread)
        except UserError as exc:
            told = exc

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beside)
        try:
            await work()
        except (UserError, BrokenPipeError) as exc:
            ran = exc
        finally:
            os.close(ours)
    return told, ran


def raise_first(*failures: Exception | None) -> None:
    """Raise the first that is one."""
    for failure in failures:
        if failure is not None:
            raise failure
