"""A command by the QEMU guest agent whose input and output may be of any size: they go through files of the guest.

The agent itself carries 16 MiB of each with a command. Here input is written to a file before the command starts, and
output is read from another while it runs. The files are in a folder of root's, and gone when the command has ended.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterable, Awaitable, Callable

import anyio

from tartlet.errors import UserError
from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentFailed
from tartlet.guest.qga.commands import QgaCommands
from tartlet.guest.qga.files import OpenFile, opened

log = logging.getLogger(__name__)

_MOST_ERRORS = 1 << 20
"""Bytes of standard error that are handed on."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.004, 0.05
_CLEAN_UP = 15.0

_PREPARE = """\
top=/var/tmp; [ -d "$top" ] || top=/tmp
mkdir -m 700 "$top/$1" && cd "$top/$1" && umask 077 && : > in && : > out && : > err && echo "$top/$1"
"""
_RUN = 'cd "$1" && exec < in > out 2> err && cd / && shift && exec "$@"'

Writer = Callable[[bytes], Awaitable[None]]


async def execute_spooled(
    commands: QgaCommands, command: Command, stdin: AsyncIterable[bytes] | None, stdout: Writer, stderr: Writer
) -> int:
    """Run a command to its end and return its exit code (-1: ended by a signal). Cancelled, it kills the command.

    Output is handed on as it appears, errors once it has ended. Raises AgentUnavailable, AgentCannot, AgentFailed, and
    what `stdin` and the writers raise.
    """
    prepared = await commands.prepared(command)
    folder = f"tart-{secrets.token_hex(8)}"
    try:
        place = await _made(commands, folder)
        if stdin is not None:
            await _fill(commands, f"{place}/in", stdin)
        words = ["/bin/sh", "-c", _RUN, "sh", place, *prepared.words]
        async with opened(commands.agent, f"{place}/out", "r") as output:
            code = await _followed(commands, words, output, stdout)
        errors = await _errors(commands, f"{place}/err")
        refusal = prepared.refusal(code, errors)
        if refusal is not None:
            raise AgentFailed(refusal)
        if errors:
            await stderr(errors)
        return code
    finally:
        with anyio.move_on_after(_CLEAN_UP, shield=True):
            await _gone(commands, folder)


async def _made(commands: QgaCommands, folder: str) -> str:
    status = await commands.run(["/bin/sh", "-c", _PREPARE, "sh", folder], None)
    if status.exitcode != 0:
        raise AgentFailed(f"no room for what goes in and out: {status.err_data.decode(errors='replace')}")
    return status.out_data.decode(errors="replace").strip()


async def _fill(commands: QgaCommands, path: str, stdin: AsyncIterable[bytes]) -> None:
    async with opened(commands.agent, path, "w") as file:
        async for data in stdin:
            await file.write(data)


async def _followed(commands: QgaCommands, words: list[str], output: OpenFile, stdout: Writer) -> int:
    """Run the words and hand on what they write, until all has come; the exit code."""
    pid = await commands.started(words, None)
    try:
        pause, code, ended = _FIRST_PAUSE, -1, False
        while True:
            data = await output.read()
            if data:
                await stdout(data)
                continue
            if ended:
                return code
            status = await commands.agent.status(pid)
            ended = status.exited
            if ended:
                code = -1 if status.exitcode is None else status.exitcode
            else:
                await anyio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE)
    except BaseException:
        with anyio.move_on_after(_CLEAN_UP, shield=True):
            await commands.kill(pid)
        raise


async def _errors(commands: QgaCommands, path: str) -> bytes:
    read = bytearray()
    async with opened(commands.agent, path, "r") as file:
        while len(read) < _MOST_ERRORS and (data := await file.read()):
            read += data
    return bytes(read[:_MOST_ERRORS])


async def _gone(commands: QgaCommands, folder: str) -> None:
    try:
        await commands.run(["/bin/sh", "-c", 'rm -rf "/var/tmp/$1" "/tmp/$1"', "sh", folder], None)
    except UserError as exc:
        log.debug("%s may be left in the guest: %s", folder, exc)
