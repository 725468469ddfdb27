"""What a transfer looks like: to people on a terminal, in a pipe or in CI, and to programs."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from tartlet.cli.formats import JSON, TEXT
from tartlet.cli.transfer_display import JsonLines, shown_transfer
from tartlet.image.progress import TransferProgress

TOLD = [
    (0.0, TransferProgress("pulling x")),
    (0.1, TransferProgress("pulling x", 0, 3_000_000)),
    (0.2, TransferProgress("pulling x", 1_000_000, 3_000_000, 1_000_000)),
    (1.2, TransferProgress("pulling x", 2_000_000, 3_000_000, 1_000_000)),
    (1.3, TransferProgress("pulling x", 3_000_000, 3_000_000, 1_000_000)),
]

SHOW = """
from tartlet.cli.transfer_display import shown_transfer
from tartlet.image.progress import TransferProgress
with shown_transfer(plain=False) as display:
    display.report(TransferProgress("pulling [red]x"))
    for done in range(0, 3_000_001, 100_000):
        display.report(TransferProgress("pulling [red]x", done, 3_000_000, min(done, 1_000_000)))
    display.conclude("pulled", "pulled")
"""


def test_json_is_one_object_a_line_at_most_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    lines = JsonLines(clock=lambda: now[0])
    for at, progress in TOLD:
        now[0] = at
        lines.report(progress)
        lines.report(progress)
    lines.conclude("pulled x", "pulled", name="x", received=2_000_000)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told == [
        {"stage": "pulling x", "done": 0, "total": None, "reused": 0},
        {"stage": "pulling x", "done": 0, "total": 3_000_000, "reused": 0},
        {"stage": "pulling x", "done": 2_000_000, "total": 3_000_000, "reused": 1_000_000},
        {"stage": "pulling x", "done": 3_000_000, "total": 3_000_000, "reused": 1_000_000},
        {"result": "pulled", "name": "x", "received": 2_000_000},
    ]


@pytest.mark.parametrize("format_", [TEXT, JSON])
def test_a_pipe_gets_lines_without_escapes(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    with shown_transfer(plain=False, format_=format_) as display:
        for _, progress in TOLD:
            display.report(progress)
        display.conclude("pulled x", "pulled", name="x")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    if format_ == TEXT:
        assert out == "pulling x...\n0%\n100%\npulled x\n"


def test_a_terminal_gets_bytes_rate_time_left_and_what_was_reused() -> None:
    text = on_a_terminal(TERM="xterm", COLUMNS="120")
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert plain.lstrip("\r").startswith("pulling [red]x...\r\n")
    last = next(line for line in reversed(re.split(r"[\r\n]+", plain)) if "MB" in line)
    assert "2.0/2.0 MB" in last
    assert "reused 1.0 MB" in last
    assert re.search(r"\d:\d\d:\d\d", last)
    assert plain.endswith("\r\npulled\r\n")


def test_a_terminal_that_knows_no_escapes_gets_lines() -> None:
    text = on_a_terminal(TERM="dumb")
    assert "\x1b" not in text
    assert text.startswith("pulling [red]x...\r\n0%\r\n")


def on_a_terminal(**environment: str) -> str:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SHOW], stdout=theirs, stderr=theirs, env={**os.environ, **environment}
    )
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 65536):
            text += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert child.wait(20) == 0, text
    return text.decode()
