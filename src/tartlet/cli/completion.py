"""Completion scripts for bash, zsh and fish, and the answers they ask for.

The scripts call `tart` itself with `_TART_COMPLETE` set. click finds out which word is being completed; what differs
here from its own shells: names with colons complete in bash, which cuts words there, and values completed inside
`--option=value` keep the option in zsh and fish, which replace whole words.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import click
from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

from tartlet.cli.wiring import App

_PROGRAM = "tart"
_VARIABLE = "_TART_COMPLETE"


def shell_in_use() -> str:
    """The name of the user's shell, as the environment tells it."""
    return Path(os.environ.get("SHELL", "")).name


def script(shell: str) -> str:
    """The completion script for `shell`, one of bash, zsh and fish."""
    return (Path(__file__).parent / "scripts" / f"{_PROGRAM}.{shell}").read_text()


def answer(command: click.Command, app: App, shell: str) -> int:
    """Print what may stand at the cursor, one candidate or instruction a line; the exit code."""
    asked = _SHELLS.get(shell)
    if asked is None:
        return 1
    click.echo(asked(command, {"obj": app}, _PROGRAM, _VARIABLE).complete())
    return 0


class _Shell(ShellComplete):
    """The words come from the shell: before the cursor's word in `COMP_WORDS` (one a line), and `COMP_CWORD`."""

    name: ClassVar[str] = ""
    source_template: ClassVar[str] = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The complete words after `tart`, and the one that is being written."""
        words = os.environ.get("COMP_WORDS", "").split("\n")
        return words[1:], os.environ.get("COMP_CWORD", "")

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """The candidates. A line that cannot be understood has none."""
        try:
            found = super().get_completions(args, incomplete)
        except click.UsageError:
            return []
        option, equals, _ = incomplete.partition("=")
        self.before_value = f"{option}=" if equals and option.startswith("-") else ""
        return found

    before_value = ""

    def format_completion(self, item: CompletionItem[str]) -> str:
        """One line: what kind it is, and its text."""
        if item.type != "plain":
            return item.type
        return f"plain {self.before_value}{item.value}"


class _Bash(_Shell):
    """bash cuts words at the characters of `COMP_WORDBREAKS` and replaces only the last piece."""

    name = "bash"

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE", "")
        at = os.environ.get("COMP_POINT", "")
        before = line.encode()[: int(at)].decode(errors="ignore") if at.isdecimal() else line
        words = split_arg_string(before)
        incomplete = words.pop() if words and not before[-1:].isspace() else ""
        self.piece_before = self._all_but_last_piece(incomplete)
        return words[1:], incomplete

    piece_before = ""

    @staticmethod
    def _all_but_last_piece(incomplete: str) -> str:
        breaks = [mark for mark in ":=" if mark in os.environ.get("TART_WORDBREAKS", ":=")]
        return incomplete[: max((incomplete.rfind(mark) for mark in breaks), default=-1) + 1]

    def format_completion(self, item: CompletionItem[str]) -> str:
        if item.type != "plain":
            return item.type
        return f"plain {(self.before_value + item.value).removeprefix(self.piece_before)}"


class _Zsh(_Shell):
    """zsh's `_describe` splits a candidate from its description at the first bare colon."""

    name = "zsh"

    def format_completion(self, item: CompletionItem[str]) -> str:
        if item.type != "plain":
            return item.type
        value = (self.before_value + item.value).replace("\\", "\\\\").replace(":", "\\:")
        return f"plain {value}:{item.help}" if item.help else f"plain {value}"


class _Fish(_Shell):
    """fish takes a description after a tab."""

    name = "fish"

    def format_completion(self, item: CompletionItem[str]) -> str:
        line = super().format_completion(item)
        return f"{line}\t{item.help}" if item.help and item.type == "plain" else line


_SHELLS: dict[str, type[_Shell]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}
