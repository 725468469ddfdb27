"""How a VM's last run ended: a small file the supervisor keeps in the VM's folder."""

from __future__ import annotations

import enum
import json
import logging
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from tartlet.host.files import write_whole
from tartlet.host.trouble import trouble_writing
from tartlet.vm.stored.folder import VmFolder

log = logging.getLogger(__name__)

_NAME = "last-run.json"


class Ending(enum.StrEnum):
    """Why a VM no longer runs."""

    GUEST_SHUT_DOWN = "guest shut down"
    STOPPED = "stopped by user"
    SUSPENDED = "suspended"
    CRASHED = "crashed"
    KILLED = "killed"
    """The supervisor itself died (SIGKILL, power cut): there was nobody left to say more."""
    NEVER_RAN = "never ran"


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """The last, or present, run of a VM."""

    pid: int = 0
    started: float = 0.0
    """Unix seconds."""
    ended: float | None = None
    ending: Ending = Ending.NEVER_RAN
    exit_code: int | None = None
    """How QEMU ended: its exit status, or minus the number of the signal that killed it; 1 when the supervisor gave
    up. None when nobody could tell."""
    detail: str = ""

    def said(self) -> str:
        """The whole in one line."""
        code = "" if self.exit_code is None else f" (exit code {self.exit_code})"
        return f"{self.ending}{code}{': ' + self.detail if self.detail else ''}"


class RunRecord:
    """The note of the run that goes on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = LastRun(pid=os.getpid(), started=time.time(), ending=Ending.KILLED)
        self.last: LastRun | None = None
        """How it ended, once it has."""
        _save(folder, self._run)

    def finish(self, ending: Ending, exit_code: int, detail: str = "") -> LastRun:
        """Note how it ended; only the first time counts. A full disk loses the note, not the ending."""
        if self.last is None:
            self.last = replace(self._run, ended=time.time(), ending=ending, exit_code=exit_code, detail=detail)
            try:
                _save(self._folder, self.last)
            except OSError as exc:
                log.debug("how the run ended could not be noted: %s", exc)
        return self.last


@contextmanager
def recorded(folder: Path) -> Generator[RunRecord]:
    """Note that this process runs the VM, for the length of the block; whatever ends the block is noted too.

    The note says `KILLED` from the start: of that end nobody would be left to tell. Raises FileTrouble.
    """
    try:
        record = RunRecord(folder)
    except OSError as exc:
        raise trouble_writing(folder / _NAME, exc) from exc
    try:
        yield record
    except Exception as exc:
        record.finish(Ending.CRASHED, 1, "; ".join(_reasons(exc)))
        raise
    finally:
        record.finish(Ending.STOPPED, 0)  # by whoever left the block or cancelled it, if nothing else was noted


def _reasons(failure: BaseException) -> Iterator[str]:
    """What was said by an error, or by each one of a group."""
    if isinstance(failure, BaseExceptionGroup):
        for member in cast("BaseExceptionGroup[BaseException]", failure).exceptions:
            yield from _reasons(member)
    else:
        yield str(failure) or type(failure).__name__


def last_run(vm: VmFolder) -> LastRun:
    """What is known of the VM's last run; an unreadable note counts as none."""
    try:
        with vm.opened() as folder:
            return last_run_in(folder)
    except OSError:
        return LastRun()


def last_run_in(folder: int) -> LastRun:
    """The same for the VM in an open folder, whatever its name is now."""
    try:
        with open(_NAME, "rb", opener=lambda name, flags: os.open(name, flags, dir_fd=folder)) as file:
            document: dict[str, Any] = json.load(file)
        return LastRun(
            pid=int(document["pid"]),
            started=float(document["started"]),
            ended=None if document["ended"] is None else float(document["ended"]),
            ending=Ending(document["ending"]),
            exit_code=None if document["exitCode"] is None else int(document["exitCode"]),
            detail=str(document["detail"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return LastRun()


def _save(folder: Path, run: LastRun) -> None:
    document = {
        "pid": run.pid,
        "started": run.started,
        "ended": run.ended,
        "ending": run.ending,
        "exitCode": run.exit_code,
        "detail": run.detail,
    }
    write_whole(folder / _NAME, json.dumps(document, indent=2).encode())
