"""The start and the end of every invocation."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import TextIO, cast

import click

from tartlet.cli.failures import is_for_nobody, reported
from tartlet.cli.verbs import Tart
from tartlet.cli.wiring import App

PROGRAM = "tart"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what `argv` says (the process's own words without it) and return the exit code.

    An error that nobody foresaw is raised, so that its traceback is seen.
    """
    # Nothing can be cancelled yet: a Ctrl+C that comes this early is lost instead of a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _read_live(sys.stdout)
    words = list(sys.argv[1:] if argv is None else argv)
    code = code_of(words)
    # What is left is the interpreter's own end: freezing spares it a look at every object, a tenth of a short verb.
    gc.freeze()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _nobody_reads()
    except OSError as exc:
        code = reported(exc) or 1
        _nobody_reads()
    return code


def outcome(words: list[str]) -> int:
    """Do what `words` say and return the exit code. Raises whatever goes wrong."""
    completing = os.environ.get("_TART_COMPLETE")
    app = App()
    if "TART_LOG" in os.environ and app.settings.debug:
        _log_everything()
    if completing is not None:
        from tartlet.cli.completion import answer

        return answer(Tart(), app, completing)
    command = Tart()
    try:
        with command.make_context(PROGRAM, words, obj=app) as ctx:
            # From here a Ctrl+C cancels the operation: KeyboardInterrupt, or cancellation inside an event loop.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            command.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0


def code_of(words: list[str]) -> int:
    """The same with every foreseen failure reported and turned into its exit code."""
    try:
        return outcome(words)
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        return _nobody_reads()
    except BaseException as exc:
        if is_for_nobody(exc):
            return _nobody_reads()
        code = reported(exc)
        if code is None:
            raise
        return code


def _log_everything() -> None:
    """To standard error, for whoever looks for a bug."""
    import logging

    logging.basicConfig(level=logging.DEBUG, format="%(relativeCreated)6d ms %(name)s: %(message)s")


def _read_live(stream: TextIO) -> None:
    """Line by line even into a pipe, for programs that follow; any name the file system holds can be written."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True, errors="surrogateescape")


def _nobody_reads() -> int:
    """Point standard output at nothing, so that the interpreter's own flush at exit does not complain."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, cast("TextIO", sys.__stdout__).fileno())
    os.close(nothing)
    return 1
