"""How a pull or push is followed: a bar on a terminal, plain lines in a pipe or in CI, or JSON, an object a line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, Self

from tartlet.cli.formats import JSON, TEXT
from tartlet.cli.output import NobodyReads, say
from tartlet.cli.progress import ProgressLines
from tartlet.image.progress import TransferProgress, TransferReport

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

_NOT_OFTENER = 1.0
"""Seconds between two JSON objects of one stage."""


class TransferDisplay(Protocol):
    """Shows one transfer on standard output."""

    def report(self, progress: TransferProgress) -> None:
        """Show a moment of it; give this to whoever transfers."""
        ...

    def conclude(self, sentence: str, result: str, **facts: object) -> None:
        """Show what it came to: `sentence` to people, `result` (one word) and the facts to programs."""
        ...


@contextmanager
def shown_transfer(*, plain: bool, format_: str = TEXT) -> Generator[TransferDisplay]:
    """A display for the length of the block. `plain`: lines also on a terminal (`Settings.plain_progress`)."""
    if format_ == JSON:
        yield JsonLines()
    elif plain or not sys.stdout.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
        yield PlainLines()
    else:
        with _Bar() as bar:
            yield bar


@contextmanager
def while_read(display: TransferDisplay) -> Generator[TransferReport]:
    """How to report to a display; when nobody reads it any more, what is done in the block is cancelled.

    An error in a report would be taken for one of the work. Raises NobodyReads at the end of the block.
    """
    import anyio

    ended: list[NobodyReads] = []

    def report(progress: TransferProgress) -> None:
        try:
            display.report(progress)
        except NobodyReads as exc:
            ended.append(exc)
            scope.cancel()

    with anyio.CancelScope() as scope:
        yield report
    if ended:
        raise ended[0]


class PlainLines:
    """A line for each stage, a percentage at most once a second."""

    def __init__(self) -> None:
        self.report = ProgressLines(plain=True).report

    def conclude(self, sentence: str, result: str, **facts: object) -> None:
        """Print the sentence."""
        del result, facts
        say(sentence)


class JsonLines:
    """`{"stage": …, "done": …, "total": …, "reused": …}` at most once a second and at each stage's beginning and end.

    The numbers are bytes of blobs; `total` is null while nothing is counted. The last object has `result` instead.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown: TransferProgress | None = None
        self._shown_at = 0.0

    def report(self, progress: TransferProgress) -> None:
        """Print it, if it is time."""
        now, before = self._clock(), self._shown
        is_new = before is None or (before.stage, before.total is None) != (progress.stage, progress.total is None)
        at_end = progress.done == progress.total
        if progress != before and (is_new or at_end or now - self._shown_at >= _NOT_OFTENER):
            fields = (progress.stage, progress.done, progress.total, progress.reused)
            print_object(dict(zip(("stage", "done", "total", "reused"), fields, strict=True)))
            self._shown, self._shown_at = progress, now

    def conclude(self, sentence: str, result: str, **facts: object) -> None:
        """Print the facts."""
        del sentence
        print_object({"result": result, **facts})


def print_object(value: dict[str, object]) -> None:
    """One line of JSON."""
    import json

    say(json.dumps(value))


class _Bar:
    """A bar of what has to be moved, with its rate and the time left; what has not to be moved is told beside it."""

    def __init__(self) -> None:
        from rich.progress import Progress

        self._progress: Progress = Progress(*_columns())
        self._stage = ""
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._progress.stop()

    def report(self, progress: TransferProgress) -> None:
        """Show it."""
        if progress.stage != self._stage:
            self._stage, self._task = progress.stage, None
            self._say(f"{progress.stage}...")
        if progress.total is None:
            return
        completed, total = progress.done - progress.reused, progress.total - progress.reused
        reused = f"reused {_size(progress.reused)}" if progress.reused else ""
        if self._task is None:
            self._task = self._progress.add_task("", completed=completed, total=total, reused=reused)
        else:
            self._progress.update(self._task, completed=completed, total=total, reused=reused)

    def conclude(self, sentence: str, result: str, **facts: object) -> None:
        """Print the sentence below the bar."""
        del result, facts
        self._progress.stop()
        self._say(sentence)

    def _say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _columns() -> list[ProgressColumn]:
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return [
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[reused]}", markup=False),
    ]


def _size(count: int) -> str:
    from rich.filesize import decimal

    return decimal(count)
