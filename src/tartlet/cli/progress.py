"""How long work is followed: a line for each stage, and one with a percentage that is rewritten in place."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol

from tartlet.cli.output import say

_UP_AND_ERASE = "\x1b[1A\r\x1b[J"
_NOT_OFTENER = 1.0
"""Seconds between two percentages."""


class Moment(Protocol):
    """One moment of any longer work: building a guest, moving an image."""

    @property
    def stage(self) -> str:
        """What is going on, in words for the user."""
        ...

    @property
    def done(self) -> int:
        """Units of work finished in this stage."""
        ...

    @property
    def total(self) -> int | None:
        """Units of work in this stage; None when nobody can know."""
        ...


class ProgressLines:
    """Prints what it is told to standard output; give its `report` to whoever works."""

    def __init__(self, *, plain: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._in_place = not plain and sys.stdout.isatty()
        self._clock = clock
        self._stage = ""
        self._shown: int | None = None
        self._shown_at = 0.0

    def report(self, progress: Moment) -> None:
        """Print what is new in `progress`: its stage, or a percentage at most once a second and at the end."""
        if progress.stage != self._stage:
            self._stage, self._shown = progress.stage, None
            say(f"{progress.stage}...")
        if not progress.total:
            return
        percent = min(progress.done * 100 // progress.total, 100)
        now = self._clock()
        too_soon = self._shown is not None and now - self._shown_at < _NOT_OFTENER
        if percent == self._shown or (too_soon and progress.done < progress.total):
            return
        say(f"{_UP_AND_ERASE if self._in_place and self._shown is not None else ''}{percent}%")
        self._shown, self._shown_at = percent, now
