"""How a VM's last run ended: a small file the supervisor keeps in the VM's folder."""

from __future__ import annotations

import enum
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tartlet.host.files import write_whole
from tartlet.vm.folder import VmFolder

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
    """What `tart run` ended with, or will; None when nobody could tell."""
    detail: str = ""

    def said(self) -> str:
        """The whole in one line."""
        code = "" if self.exit_code is None else f" (exit code {self.exit_code})"
        return f"{self.ending}{code}{': ' + self.detail if self.detail else ''}"


def begin(folder: Path) -> LastRun:
    """Note that this process starts to run the VM. Raises OSError."""
    run = LastRun(pid=os.getpid(), started=time.time(), ending=Ending.KILLED)
    _save(folder, run)
    return run


def finish(folder: Path, begun: LastRun, ending: Ending, exit_code: int, detail: str = "") -> LastRun:
    """Note how it ended. Raises OSError."""
    run = LastRun(
        pid=begun.pid, started=begun.started, ended=time.time(), ending=ending, exit_code=exit_code, detail=detail
    )
    _save(folder, run)
    return run


def last_run(vm: VmFolder) -> LastRun:
    """What is known of the VM's last run; an unreadable note counts as none."""
    try:
        document: dict[str, Any] = json.loads((vm.path / _NAME).read_bytes())
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
