"""Rules in the kernel, through one `nft` process: it owns the tables it makes, and they end when it does.

The process runs in the network namespace that it was started in. It reads transactions from a file in memory that it
has inherited, so their size is not bounded by a line's, and nothing is written to a disk.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.abc import Process

from tartlet.errors import ToolMissing, UserError
from tartlet.host.files import write_at
from tartlet.host.process import started
from tartlet.network.attachment import NetworkLost

log = logging.getLogger(__name__)

GRACE = 2.0
_NOWHERE = "/nowhere/tart-is-done"
"""A file that does not exist. Being told so, which asks nothing of the kernel, is the sign that all before it is done.

After the line that names it come one with the command and one that points into it.
"""

_AGAIN = "the guest has no network any more: run the VM again"


class RulesRefused(UserError):
    """nft or the kernel did not take a transaction: nothing of it is in force."""

    def __init__(self, told: str) -> None:
        errors = [line for line in told.splitlines() if "Error: " in line]
        reason = errors[0].partition("Error: ")[2] if errors else told.strip() or "no message"
        super().__init__(f"the network rules were refused: {reason}", "`tart doctor` tells what this kernel lacks")
        self.told = told


class Rules:
    """A running `nft` and the tables it owns. One transaction at a time, in the order of the calls."""

    def __init__(self, process: Process, memory: int) -> None:
        self._process, self._memory = process, memory
        self._turn = anyio.Lock()
        self._heard = b""

    @property
    def pid(self) -> int:
        """The process whose end takes the rules away."""
        return self._process.pid

    async def load(self, text: str) -> None:
        """Put a transaction into force: all of it, or with RulesRefused nothing. Raises NetworkLost."""
        told, _ = await self._do(text)
        if told:
            raise RulesRefused(told)

    async def listed(self, command: str) -> list[dict[str, Any]]:
        """The objects that a `list` command shows, as nft's JSON schema has them. Raises RulesRefused, NetworkLost.

        Not for whole tables: nft 1.0.6 writes an owned table's flags from freed memory.
        """
        told, objects = await self._do(command)
        if told:
            raise RulesRefused(told)
        return objects

    async def lost(self) -> NetworkLost:
        """Wait until the process has ended by itself, and tell that as an error."""
        return _ended(await self._process.wait())

    async def _do(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        # Shielded: an answer that nobody waits for any more would be taken for the next one's.
        with anyio.CancelScope(shield=True):
            async with self._turn:
                if self._memory < 0:
                    raise NetworkLost("the rules of the VM's network are gone", _AGAIN)
                self._write(text)
                told, objects = "", list[dict[str, Any]]()
                await self._send(f'include "/proc/self/fd/{self._memory}"\ninclude "{_NOWHERE}"\n'.encode())
                while (line := await self._line()) is not None:
                    if line.endswith(f"{_NOWHERE}\n"):
                        await self._line()
                        await self._line()
                        return told, objects
                    found = _objects(line)
                    told += line if found is None else ""
                    objects += found or []
        raise _ended(await self._process.wait())

    async def close(self) -> None:
        """End the process. Whoever asks for something afterwards, or waits for an answer, gets NetworkLost."""
        await _stop(self._process)
        async with self._turn:  # the number of the file may be another one's when it is closed
            os.close(self._memory)
            self._memory = -1

    def _write(self, text: str) -> None:
        os.ftruncate(self._memory, 0)
        write_at(self._memory, text.encode(), 0)

    async def _send(self, words: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # then there is no answer either
            await self._process.stdin.send(words)

    async def _line(self) -> str | None:
        """The next line that nft says; None when it says nothing any more."""
        assert self._process.stdout is not None
        while b"\n" not in self._heard:
            try:
                self._heard += await self._process.stdout.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return None
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode(errors="replace") + "\n"


@asynccontextmanager
async def kernel_rules(enter: Sequence[str] = ()) -> AsyncGenerator[Rules]:
    """An `nft` for the length of the block; the tables that it was given are gone when the block ends.

    `enter` are words before the program's, which start it in another namespace: `nsenter --target 42 --net --`.
    The process ends with this one, because its input does. Raises ToolMissing.
    """
    memory = os.memfd_create("tart-rules", os.MFD_CLOEXEC)
    try:
        process = await _started([*enter, program(), "--interactive", "--json"], memory)
    except BaseException:
        os.close(memory)
        raise
    rules = Rules(process, memory)
    try:
        yield rules
    finally:
        with anyio.CancelScope(shield=True):
            await rules.close()


def program() -> str:
    """Where `nft` is: in PATH, or where only root's PATH looks. Raises ToolMissing."""
    found = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        raise ToolMissing("nft", "install it: apt install nftables")
    return found


async def _started(words: list[str], memory: int) -> Process:
    return await started(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # errors in their place among the answers
        pass_fds=[memory],
        start_new_session=True,  # Ctrl+C is for the supervisor
        env={**os.environ, "HOME": "/nonexistent", "LC_ALL": "C"},  # no history of commands in the user's home
    )


async def _stop(process: Process) -> None:
    assert process.stdin is not None
    await process.stdin.aclose()
    with anyio.move_on_after(GRACE):
        await process.wait()
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    await process.aclose()


def _objects(line: str) -> list[dict[str, Any]] | None:
    """What an answer lists, without the line about nft's version; None for a line of an error message."""
    if not line.startswith('{"nftables"'):
        return None
    members: list[dict[str, Any]] = json.loads(line)["nftables"]
    return [member for member in members if "metainfo" not in member]


def _ended(status: int) -> NetworkLost:
    return NetworkLost(
        f"nft, which holds the rules of the VM's network, ended with status {status}",
        _AGAIN,
    )
