"""The logs of one run: the supervisor's own, and fresh files for what QEMU and the guest's serial port say."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from tartlet.errors import FileTrouble
from tartlet.vm.folder import VmFolder


@dataclass(frozen=True, slots=True)
class RunLog:
    """Notes what happens in a run, and tells it to whoever watches."""

    _file: IO[str]
    tell: Callable[[str], None]
    """Tells whoever watches, and notes nothing."""

    def announce(self, line: str) -> None:
        """Note a line and tell it."""
        self.note(line)
        self.tell(line)

    def note(self, line: str) -> None:
        """Only note a line, with the time."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._file.write(f"{stamp} {line}\n")
        self._file.flush()


@contextmanager
def begun_log(vm: VmFolder, tell: Callable[[str], None]) -> Generator[RunLog]:
    """Start the logs of a run anew, unless it continues a suspended one. They may hold secrets of the guest: mode 0600.

    Raises FileTrouble.
    """
    anew = 0 if os.path.lexists(vm.state_path) else os.O_TRUNC
    for path in (vm.run_log_path, vm.qemu_log_path, vm.serial_log_path):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | anew | os.O_CLOEXEC, 0o600))
        except OSError as exc:
            raise FileTrouble("cannot write the log", path, exc) from exc
    with open(vm.run_log_path, "a", encoding="utf-8", errors="replace") as file:
        yield RunLog(file, tell)
