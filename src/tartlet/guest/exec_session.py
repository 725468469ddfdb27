"""`tart exec`: a command in a guest, joined to this process's standard input, output and error."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import anyio
import anyio.lowlevel

from tartlet.errors import FileTrouble
from tartlet.guest.channel import PATIENCE, connect
from tartlet.guest.commands import Command

_PIECE = 64 << 10
"""Bytes read or written at once."""

_PIPE_PIECE = 4096
"""Bytes a pipe that is ready takes without blocking (PIPE_BUF on Linux)."""

_NAMES = {1: "standard output", 2: "standard error"}

_READER_GONE = 141
"""The status a shell shows for a program whose reader went away (128 + SIGPIPE)."""


async def exec_in_terminal(
    folder: Path,
    words: Sequence[str],
    *,
    interactive: bool = False,
    tty: bool = False,
    patience: float = PATIENCE,
) -> int:
    """Run `words` in the guest of the running VM of `folder`; what this process should end with (0 to 255).

    Output arrives unchanged on descriptors 1 and 2. With `interactive` descriptor 0 is read to its end, but never keeps
    the call once the command has ended. Nothing of the process is changed. Cancelling kills the command. Raises
    AgentUnavailable after `patience` seconds, AgentCannot, AgentFailed.
    """
    command = Command(name=words[0], args=tuple(words[1:]), interactive=interactive, tty=tty)
    stdin = _read(0) if interactive else None
    try:
        async with connect(folder, patience) as channel:
            code = await channel.execute(command, _Writer(1), _Writer(2), stdin, _size() if tty else None)
    except BrokenPipeError:
        return _READER_GONE
    return code & 0xFF


def _size() -> tuple[int, int]:
    """Rows and columns of the terminal at standard output, or the size that every program expects."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return 24, 80
    return size.lines, size.columns


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
