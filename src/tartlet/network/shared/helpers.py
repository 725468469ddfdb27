"""Programs that a network needs as long as it stands: started, listened to, and started again when they die."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tartlet.errors import UserError

log = logging.getLogger(__name__)

_MOST_DEATHS, _SPAN = 5, 60.0
_PAUSE = 5.0
"""Seconds until it is looked again whether a program that may not start yet may."""


_HINT = "`tart doctor` looks at what the network needs; `tart network set backend NAME` chooses another kind"


class HelperDead(UserError):
    """A program does not work here."""

    def __init__(self, name: str, told: str) -> None:
        super().__init__(f"{name} does not work here: {told or 'it says nothing'}", _HINT)


class KeepsDying(UserError):
    """A program dies again and again."""

    def __init__(self, name: str, status: int, told: str) -> None:
        reason = f": {told}" if told else ""
        super().__init__(f"the network helper {name} keeps ending with status {status}{reason}", _HINT)


def always() -> bool:
    """The answer for programs that may start at any time."""
    return True


@dataclass(slots=True)
class Helper:
    """One program that is kept running."""

    name: str
    start: Callable[[int], subprocess.Popen[bytes]]
    """Starts it; it may write complaints to the descriptor, which never makes it wait."""
    may_start: Callable[[], bool] = always
    process: subprocess.Popen[bytes] | None = None
    descriptor: int = -1
    """Readable when it has ended; -1 while it does not run."""
    _said: int = -1
    _deaths: deque[float] = field(default_factory=lambda: deque[float](maxlen=_MOST_DEATHS))
    _next_look: float = 0.0
    _asked_to_end: bool = False

    def begin(self) -> bool:
        """Start it if it may; whether it runs now. Raises ToolMissing, OSError."""
        if not self.may_start():
            self._next_look = time.monotonic() + _PAUSE
            return False
        self._said, says = os.pipe()
        try:
            os.set_blocking(self._said, False)
            os.set_blocking(says, False)
            self.process = self.start(says)
            self.descriptor = os.pidfd_open(self.process.pid)
        finally:
            os.close(says)
        log.debug("%s runs", self.name)
        return True

    def waits(self) -> float | None:
        """Seconds until `begin` is worth another attempt; None while it runs."""
        return None if self.process else max(0.0, self._next_look - time.monotonic())

    def renew(self) -> None:
        """Have it end, if it runs, and be started anew: that is no death."""
        if self.process is not None:
            self._asked_to_end = True
            self.process.terminate()

    def ended(self) -> None:
        """It has ended: give back what it was watched by. Raises KeepsDying."""
        assert self.process is not None
        status, told = self.process.wait(), self.last_words()
        os.close(self.descriptor)
        os.close(self._said)
        self.process, self.descriptor, self._said = None, -1, -1
        log.debug("%s ended with status %d: %s", self.name, status, told)
        if self._asked_to_end:
            self._asked_to_end = False
            return
        now = time.monotonic()
        if len(self._deaths) == _MOST_DEATHS and now - self._deaths[0] < _SPAN:
            raise KeepsDying(self.name, status, told)
        self._deaths.append(now)

    def last_words(self) -> str:
        """The last line that it said; empty when it said nothing."""
        return last_line(self._said)


def last_line(said: int) -> str:
    """The last line that a helper has written into the non-blocking pipe `said`; empty when there is none."""
    try:
        told = os.read(said, 65536).decode(errors="replace")
    except BlockingIOError:
        return ""
    # Where no system log runs, pasta and passt complain about that too.
    lines = [line.strip() for line in told.splitlines() if line.strip() and "syslog" not in line]
    return lines[-1] if lines else ""
