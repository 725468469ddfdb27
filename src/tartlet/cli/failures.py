"""The one place where errors are printed and turned into exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import click

from tartlet.cli.output import NobodyReads
from tartlet.errors import UserError

WRONG_USAGE = 64


def reported(failure: BaseException) -> int | None:
    """Print `failure` to standard error and return the exit code; None for what nobody foresaw (nothing is printed)."""
    if isinstance(failure, click.UsageError):
        return _say(_usage(failure), WRONG_USAGE)
    if isinstance(failure, BaseExceptionGroup):
        leaves = _different(_leaves(cast("BaseExceptionGroup[BaseException]", failure)))
        codes = [reported(leaf) for leaf in leaves] if all(_foreseen(leaf) for leaf in leaves) else [None]
        return codes[0]
    if isinstance(failure, UserError):
        return _say(_with_hint(failure), failure.exit_code)
    if isinstance(failure, OSError):
        return _say(f"Error: {_described(failure)}", 1)
    return None


def is_for_nobody(failure: BaseException) -> bool:
    """Whether the work ended because whoever read its output is gone."""
    if isinstance(failure, BaseExceptionGroup):
        return any(is_for_nobody(leaf) for leaf in _leaves(cast("BaseExceptionGroup[BaseException]", failure)))
    return isinstance(failure, NobodyReads)


def _foreseen(failure: BaseException) -> bool:
    return isinstance(failure, click.UsageError | UserError | OSError)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for member in group.exceptions:
        if isinstance(member, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[BaseException]", member))
        else:
            yield member


def _different(failures: Iterator[BaseException]) -> list[BaseException]:
    """Each once: what works side by side often fails for one reason."""
    found: dict[tuple[type[BaseException], str], BaseException] = {}
    for failure in failures:
        found.setdefault((type(failure), failure.gist if isinstance(failure, UserError) else str(failure)), failure)
    return list(found.values())


def _say(text: str, code: int) -> int:
    click.echo(text, err=True)
    return code


def _with_hint(failure: UserError) -> str:
    return f"{failure}\n{failure.hint}" if failure.hint else str(failure)


def _described(failure: OSError) -> str:
    reason = failure.strerror or str(failure) or type(failure).__name__
    return f"{reason}: {failure.filename}" if failure.filename is not None else reason


def _usage(failure: click.UsageError) -> str:
    """The message, what the option is for or the hint, how to call the command, and where to read more."""
    lines = [f"Error: {failure.format_message()}"]
    help_line = _help_line(failure)
    if help_line:
        lines.append(f"Help:  {help_line}")
    if failure.ctx is not None:
        lines.append(f"Usage: {failure.ctx.get_usage()}")
        lines.append(f"  See '{failure.ctx.command_path} --help' for more information.")
    return "\n".join(lines)


def _help_line(failure: click.UsageError) -> str | None:
    hint: str | None = getattr(failure, "hint", None)
    if hint:
        return hint
    if isinstance(failure, click.BadParameter) and failure.param is not None and failure.ctx is not None:
        from tartlet.cli.help_screen import described, label

        return f"{label(failure.param, failure.ctx)}  {described(failure.param)}".rstrip()
    return None
