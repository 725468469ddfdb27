"""The logs of one run: the supervisor's own, and fresh files for what QEMU and the guest's serial port say."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import anyio

from tartlet.errors import FileTrouble
from tartlet.host.bounded_log import shorten
from tartlet.vm.stored.folder import VmFolder

log = logging.getLogger(__name__)

_LONGEST = 16 << 20
"""Bytes kept of what the guest or QEMU says."""

_INTERVAL = 5
"""Seconds between looks at the logs' sizes."""


@dataclass(frozen=True, slots=True)
class RunLog:
    """Notes what happens in a run, and tells it to whoever watches.

    Neither a full disk nor a watcher who has gone may end the VM: what cannot be said is dropped.
    """

    _file: IO[bytes]
    _tell: Callable[[str], None]

    def announce(self, line: str) -> None:
        """Note a line and tell it."""
        self.note(line)
        self.tell(line)

    def note(self, line: str) -> None:
        """Only note a line, with the time."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        try:
            self._file.write(f"{stamp} {line}\n".encode(errors="replace"))
        except OSError as exc:
            log.debug("not noted: %s (%s)", line, exc)

    def tell(self, line: str) -> None:
        """Only tell a line to whoever watches."""
        try:
            self._tell(line)
        except OSError as exc:
            log.debug("not told: %s (%s)", line, exc)


@contextmanager
def begun_log(vm: VmFolder, tell: Callable[[str], None]) -> Generator[RunLog]:
    """Start the logs of a run anew, unless it continues a suspended one. They may hold secrets of the guest: mode 0600.

    Raises FileTrouble.
    """
    anew = 0 if os.path.lexists(vm.state_path) else os.O_TRUNC
    for path in (vm.run_log_path, vm.qemu_log_path, vm.serial_log_path, vm.refusals_log_path):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | anew | os.O_CLOEXEC, 0o600))
        except OSError as exc:
            raise FileTrouble("cannot write the log", path, exc) from exc
    with open(vm.run_log_path, "ab", buffering=0) as file:
        yield RunLog(file, tell)


async def kept_short(folder: Path, run: RunLog) -> None:
    """A guest decides what goes into two of the logs; it shall not fill the host's disk. Does not return."""
    while True:
        await anyio.sleep(_INTERVAL)
        for name in ("serial.log", "qemu.log"):
            try:
                shorten(folder / name, _LONGEST)
            except OSError as exc:
                run.note(f"{name} could not be shortened: {exc.strerror}")
