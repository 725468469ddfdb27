"""Progress as lines: a stage when it changes, a percentage at most once a second and always at the end."""

from __future__ import annotations

import io
import sys

import pytest

from tartlet.build.progress import Progress
from tartlet.cli.progress import ProgressLines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(told: list[tuple[float, Progress]], *, plain: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    now = [0.0]
    lines = ProgressLines(plain=plain, clock=lambda: now[0])
    for at, progress in told:
        now[0] = at
        lines.report(progress)
    return terminal.getvalue()


TOLD = [
    (0.0, Progress("fetching", 0, 200)),
    (0.1, Progress("fetching", 50, 200)),
    (1.5, Progress("fetching", 100, 200)),
    (3.0, Progress("fetching", 101, 200)),
    (3.1, Progress("fetching", 200, 200)),
    (3.2, Progress("unpacking", 5)),
]


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(TOLD, plain=True, monkeypatch=monkeypatch) == "fetching...\n0%\n50%\n100%\nunpacking...\n"


def test_a_percentage_is_rewritten_in_place_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    again = "\x1b[1A\r\x1b[J"
    assert (
        printed(TOLD, plain=False, monkeypatch=monkeypatch)
        == f"fetching...\n0%\n{again}50%\n{again}100%\nunpacking...\n"
    )
