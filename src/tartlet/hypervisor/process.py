"""The QEMU process: started with what it inherits, watched, stopped politely, then firmly, and always reaped."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from tartlet.errors import ToolMissing, UserError
from tartlet.host.lifeline import tied
from tartlet.host.trouble import trouble_writing

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds QEMU gets to flush its disks after SIGTERM, before SIGKILL."""

_TAIL_LINES, _TAIL_BYTES = 12, 8192


class QemuCrashed(UserError):
    """QEMU ended although nobody asked it to."""

    def __init__(self, exit_status: int, log_file: Path, tail: str) -> None:
        super().__init__(f"QEMU {_ending(exit_status)}" + (f":\n{tail}" if tail else " without a word"))
        self.hint = f"its whole output is in {log_file}"
        self.exit_status, self.log_file, self.tail = exit_status, log_file, tail


class Process:
    """A child process. It is reaped by `spawned`, which gives it out."""

    def __init__(self, child: subprocess.Popen[bytes], log_file: Path, log_start: int) -> None:
        self._child, self._log_start = child, log_start
        self.log_file = log_file
        self._descriptor = os.pidfd_open(child.pid) if sys.platform == "linux" else None

    @property
    def pid(self) -> int:
        """Its number, which is its own until the block of `spawned` ends."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """How it ended: an exit status, or minus a signal's number; None while it runs."""
        return self._child.poll()

    async def wait(self) -> int:
        """Wait for its end and return how it ended. Any number of tasks may wait, one after the other or at once."""
        while (status := self._child.poll()) is None:
            if self._descriptor is None:
                await anyio.sleep(0.05)  # macOS, where a child has no descriptor to wait for
            else:
                # A copy for each waiting task: one event loop watches a descriptor only once.
                copy = os.dup(self._descriptor)
                try:
                    await anyio.wait_readable(copy)
                finally:
                    os.close(copy)
        return status

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing when it has ended."""
        self._child.send_signal(number)

    def log_tail(self) -> str:
        """The last lines of what it has said in this run."""
        with self.log_file.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, end - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(line for line in lines[-_TAIL_LINES:] if line.strip())

    def crash(self) -> QemuCrashed:
        """The error that tells how it ended. Only once it has."""
        return QemuCrashed(self._child.poll() or 0, self.log_file, self.log_tail())

    def release(self) -> None:
        """Give back the descriptor it was watched by."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@asynccontextmanager
async def spawned(
    argv: Sequence[str], *, log_file: Path, pass_fds: Sequence[int] = (), grace: float = GRACE
) -> AsyncGenerator[Process]:
    """Run a program for the length of the block; it dies with this process, however that ends.

    What it prints is appended to `log_file`. `pass_fds` keep their numbers in the child. When the block ends and it
    still runs it gets SIGTERM, after `grace` seconds SIGKILL. Raises ToolMissing, FileTrouble (the log).
    """
    process = _started(argv, log_file, pass_fds)
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            await _ended(process, grace)
        process.release()


async def _ended(process: Process, grace: float) -> None:
    if process.returncode is None:
        process.send(signal.SIGTERM)
        with anyio.move_on_after(grace):
            await process.wait()
    if process.returncode is None:
        log.debug("process %d ignored SIGTERM for %g seconds", process.pid, grace)
        process.send(signal.SIGKILL)
        await process.wait()


def _started(argv: Sequence[str], log_file: Path, pass_fds: Sequence[int]) -> Process:
    log.debug("start: %s", shlex.join(argv))
    if os.path.sep in argv[0] and not os.access(argv[0], os.X_OK):
        raise ToolMissing(argv[0])
    try:
        output = log_file.open("ab")
    except OSError as exc:
        raise trouble_writing(log_file, exc) from exc
    with output:
        start = output.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            tied(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl+C in the terminal is for the supervisor, which decides what QEMU gets
        )
    return Process(child, log_file, start)


def _ending(exit_status: int) -> str:
    if exit_status >= 0:
        return f"ended with exit status {exit_status}"
    try:
        return f"was killed by {signal.Signals(-exit_status).name}"
    except ValueError:
        return f"was killed by signal {-exit_status}"
