"""`exec_in_terminal` as a program, and VMs without a machine for it: an agent that serves a folder's control socket."""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import anyio

from guest_channels import served
from host_agents import agent_process, agents_served
from machines import MAC
from scripted_qga import scripted_qga

_PROGRAM = """\
import sys, anyio
from pathlib import Path
from tartlet.errors import UserError
from tartlet.guest.commands import Command
from tartlet.guest.client.exec_session import exec_in_terminal
folder, flags, *words = sys.argv[1:]
async def main():
    command = Command(name=words[0], args=tuple(words[1:]), interactive="i" in flags, tty="t" in flags)
    return await exec_in_terminal(Path(folder), command, patience=5, limit=1 if "l" in flags else None)
try:
    sys.exit(anyio.run(main))
except UserError as exc:
    print(exc, file=sys.stderr)
    sys.exit(99)
"""


@contextmanager
def served_in_background(folder: Path, kind: str) -> Generator[Path]:
    """The folder, in which an agent answers that is of `kind` tart or qemu."""
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with AsyncExitStack() as held:
            if kind == "tart":
                port, _ = held.enter_context(agent_process())
                await held.enter_async_context(agents_served(folder, port))
            else:
                port, _ = held.enter_context(scripted_qga())
                await held.enter_async_context(served(folder, port, MAC))
            started.set()
            while not stop.is_set():  # noqa: ASYNC110 - the event is another thread's
                await anyio.sleep(0.02)

    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    assert started.wait(10)
    yield folder
    stop.set()
    thread.join()


def session_words(folder: Path, flags: str, *command: str) -> list[str]:
    """Words that run `exec_in_terminal`; `flags` are of `i`, `t` and `l` (at most a second)."""
    return [sys.executable, "-c", _PROGRAM, str(folder), flags, *command]
