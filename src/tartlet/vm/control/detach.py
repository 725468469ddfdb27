"""`tart run --detach`: the same supervisor in a session of its own.

The process forks before it has threads or an event loop. The child supervises; until its VM runs, what it prints goes
where the caller looks, afterwards into the VM's log. The parent reports when the VM runs (or its agent answers), or
ends as the child ended.
"""

from __future__ import annotations

import enum
import os
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tartlet.errors import TimeIsUp, UserError
from tartlet.units import human_count
from tartlet.vm.stored.ended import LastRun, last_run_in
from tartlet.vm.stored.folder import VmFolder

_RUNNING = b"R"
_ANSWERS = b"A"
READY_TIMEOUT = 300
"""Seconds `--wait-ready` gives the guest's agent to answer when nobody says how long."""


class NotReadyInTime(TimeIsUp):
    """The VM runs, its agent does not answer."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(
            f'VM "{name}" runs, but its guest agent did not answer within {human_count(seconds, "second")}',
            f"the VM is left running: look at `tart logs {name} --serial` and `tart doctor {name}`, or give it longer",
        )


class EndedBeforeReady(UserError):
    """The VM ran, and ended before its agent answered."""

    def __init__(self, name: str, run: LastRun) -> None:
        super().__init__(
            f'VM "{name}" ended before its guest agent answered: {run.said()}',
            f"look at `tart logs {name}` and `tart logs {name} --serial`",
        )
        self.run = run


class _Heard(enum.Enum):
    WORD = enum.auto()
    END = enum.auto()
    NOTHING_IN_TIME = enum.auto()


@dataclass(frozen=True, slots=True)
class Background:
    """The child's line to the process that waits for it."""

    _pipe: int
    _log: Path

    def running(self) -> None:
        """The VM runs: from now on standard output goes nowhere and standard error into the VM's log."""
        sys.stdout.flush()
        sys.stderr.flush()
        nowhere = os.open(os.devnull, os.O_RDWR)
        log = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.dup2(log, 2)
        os.close(nowhere)
        os.close(log)
        self._say(_RUNNING)

    def answers(self) -> None:
        """The guest's agent answers."""
        self._say(_ANSWERS)

    def _say(self, word: bytes) -> None:
        with suppress(BrokenPipeError):  # whoever waited has gone; the VM goes on
            os.write(self._pipe, word)


def into_background(vm: VmFolder, *, until_agent: bool, patience: float = READY_TIMEOUT) -> Background:
    """Fork. The child returns; the parent waits for it and ends the process (SystemExit).

    `patience` is how many seconds the agent gets. Raises NotReadyInTime and EndedBeforeReady in the parent.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        return Background(writing, vm.run_log_path)
    os.close(writing)
    _pass_interrupts_to(child)
    with vm.opened() as folder:
        if _heard(reading, _RUNNING, None) is not _Heard.WORD:
            _, status = os.waitpid(child, 0)
            sys.exit(_exit_code(status) or 1)
        heard = _heard(reading, _ANSWERS, patience) if until_agent else _Heard.WORD
        if heard is _Heard.NOTHING_IN_TIME:
            raise NotReadyInTime(vm.name, patience)
        if heard is _Heard.END:
            os.waitpid(child, 0)
            raise EndedBeforeReady(vm.name, last_run_in(folder))
    sys.exit(0)


def _exit_code(status: int) -> int:
    """The child's, as a shell tells it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _pass_interrupts_to(child: int) -> None:
    def pass_on(number: int, _: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    signal.signal(signal.SIGINT, pass_on)


def _heard(pipe: int, word: bytes, seconds: float | None) -> _Heard:
    """Whether `word` comes out of the pipe, before its end and in time."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([pipe], [], [], left)
        if not ready:
            return _Heard.NOTHING_IN_TIME
        said = os.read(pipe, 1)
        if said == word:
            return _Heard.WORD
        if not said:
            return _Heard.END
