"""Errors become text and exit codes in one place."""

from __future__ import annotations

import click
import pytest

from tartlet.cli.failures import reported
from tartlet.errors import FileTrouble, UserError
from tartlet.vm.stored.store import VmMissing, VmRunning


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (UserError("it broke"), 1, "it broke\n"),
        (UserError("it broke", "mend it"), 1, "it broke\nmend it\n"),
        (
            VmRunning("v"),
            1,
            'VM "v" is running\nstop it first: tart stop v; or wait, if it is being pushed or exported\n',
        ),
        (OSError(28, "No space left on device", "/x/y"), 1, "Error: No space left on device: /x/y\n"),
        (OSError("odd"), 1, "Error: odd\n"),
        (TimeoutError(), 1, "Error: TimeoutError\n"),
        (FileTrouble("cannot read", "/x", OSError(2, "No such file")), 1, "cannot read /x: No such file\n"),
        (click.UsageError("wrong"), 64, "Error: wrong\n"),
        (ExceptionGroup("several", [UserError("one"), VmMissing("v")]), 1, "one\n"),
        (ExceptionGroup("several", [UserError("one"), UserError("one"), VmMissing("v")]), 1, "one\n"),
        (ExceptionGroup("outer", [ExceptionGroup("inner", [VmMissing("v")])]), 2, '"v" does not exist'),
    ],
)
def test_a_foreseen_failure(failure: Exception, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reported(failure) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert text in shown.err
    assert failure.args[0:1] != ("several",) or shown.err.count("\n") == 3


@pytest.mark.parametrize(
    "failure", [KeyError("x"), AssertionError(), ExceptionGroup("mixed", [UserError("one"), KeyError("x")])]
)
def test_what_nobody_foresaw_is_left_to_its_traceback(failure: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert reported(failure) is None
    assert capsys.readouterr().err == ""
