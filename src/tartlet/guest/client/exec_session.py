"""`tart exec`: a command in a guest, joined to this process's standard input, output and error."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel

from tartlet.errors import FileTrouble, TimeIsUp, UserError
from tartlet.guest.client import terminal
from tartlet.guest.commands import Command
from tartlet.guest.rpc.channel import PATIENCE, GuestChannel, connect
from tartlet.units import human_count

_PIECE = 64 << 10
"""Bytes read or written at once."""

_PIPE_PIECE = 4096
"""Bytes a pipe that is ready takes without blocking (PIPE_BUF on Linux)."""

_NAMES = {1: "standard output", 2: "standard error"}

_READER_GONE = 141
"""The status a shell shows for a program whose reader went away (128 + SIGPIPE)."""


class CommandTimedOut(TimeIsUp):
    """A command was killed because it took too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"given up after {human_count(seconds, 'second')}, and the command was killed")


async def exec_in_terminal(
    folder: Path, command: Command, *, patience: float = PATIENCE, limit: float | None = None
) -> int:
    """Run a command in the guest of the running VM of `folder`; what this process should end with (0 to 255).

    Output arrives unchanged on descriptors 1 and 2. An interactive command gets descriptor 0 to its end, but that never
    keeps the call once the command has ended. A command with a terminal has this process's own, raw until it ends, and
    learns its size. Cancelling kills the command, and so do `limit` seconds.

    Raises AgentUnavailable after `patience` seconds, AgentCannot, AgentFailed, CommandTimedOut.
    """
    if command.tty:
        command = replace(command, size=terminal.size())
    try:
        with anyio.fail_after(limit):
            async with connect(folder, patience) as channel:
                code = await (_on_terminal if command.tty else _joined)(channel, command)
    except TimeoutError as exc:
        raise CommandTimedOut(limit or 0) from exc
    except BrokenPipeError:
        return _READER_GONE
    return code & 0xFF


async def _joined(channel: GuestChannel, command: Command, sizes: AsyncIterable[tuple[int, int]] | None = None) -> int:
    stdin = _read(0) if command.interactive else None
    return await channel.execute(command, _Writer(1), _Writer(2), stdin, sizes)


async def _on_terminal(channel: GuestChannel, command: Command) -> int:
    own = terminal.OwnTerminal(keep_signals=not command.interactive)
    code = 0
    failure: UserError | OSError | None = None
    with terminal.news() as signals, own.held():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(own.obey, signals, tasks.cancel_scope)
            try:
                code = await _joined(channel, command, own.sizes())
            except (UserError, OSError) as exc:  # raised outside the group, so unwrapped
                failure = exc
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return 128 + own.ended_by if own.ended_by is not None else code


async def _read(descriptor: int) -> AsyncGenerator[bytes]:
    """What a descriptor holds until its end, in the pieces in which it comes. A closed descriptor is an empty one."""
    while True:
        try:
            await _ready(descriptor, to_read=True)
            data = os.read(descriptor, _PIECE)
        except OSError:
            return
        if not data:
            return
        yield data


class _Writer:
    """Writes all of it, and waits for a slow reader without holding the event loop up."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def __call__(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            pollable = await _ready(self._descriptor, to_read=False)
            try:
                written = os.write(self._descriptor, rest[: _PIPE_PIECE if pollable else _PIECE])
            except BrokenPipeError:
                raise
            except OSError as exc:
                raise FileTrouble("cannot write to", _NAMES[self._descriptor], exc) from exc
            rest = rest[written:]


async def _ready(descriptor: int, *, to_read: bool) -> bool:
    """Wait until a read or write will not block; False for what is always ready (files, the null device)."""
    try:
        await (anyio.wait_readable if to_read else anyio.wait_writable)(descriptor)
    except PermissionError:  # epoll does not take these
        await anyio.lowlevel.checkpoint()
        return False
    return True
