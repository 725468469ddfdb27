"""How far a transfer of an image is, told to whoever asked to be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """One moment of a pull or push."""

    stage: str
    """What is going on, in words for the user: `pulling ghcr.io/org/vm:latest`."""
    done: int = 0
    """Bytes of blobs that are dealt with: moved, found here already, or known to be zeros."""
    total: int | None = None
    """Bytes of all blobs; None while nothing is counted."""
    reused: int = 0
    """Those of `done` that did not have to be moved."""


TransferReport = Callable[[TransferProgress], None]
"""Takes a TransferProgress; must return at once."""


def silent(_: TransferProgress) -> None:
    """The report of those who do not want to know."""


class Counter:
    """Adds up what the parts of one transfer have done, and reports."""

    def __init__(self, report: TransferReport, stage: str, total: int) -> None:
        self._report, self._stage, self._total = report, stage, total
        self._done = self._reused = 0

    @property
    def moved(self) -> int:
        """Bytes that came or went over the network."""
        return self._done - self._reused

    @property
    def reused(self) -> int:
        """Bytes that did not have to."""
        return self._reused

    def move(self, count: int) -> None:
        """Some bytes were moved; a negative number takes back what has to be moved again."""
        self._done += count
        self._tell()

    def reuse(self, count: int) -> None:
        """Some bytes need not be moved."""
        self._done += count
        self._reused += count
        self._tell()

    def _tell(self) -> None:
        self._report(TransferProgress(self._stage, self._done, self._total, self._reused))
