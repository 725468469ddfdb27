"""Help: its shape, and that every verb describes itself completely."""

from __future__ import annotations

import os

import click
import pytest

from tartlet.cli.help_screen import screen, terminal_width
from tartlet.cli.main import PROGRAM, code_of
from tartlet.cli.verb_table import HIDDEN, VERBS
from tartlet.cli.verbs import Tart

ALL = sorted((*VERBS, *HIDDEN))


def context_of(name: str) -> tuple[click.Command, click.Context]:
    top = click.Context(Tart(), info_name=PROGRAM)
    verb = Tart().get_command(top, name)
    assert verb is not None
    return verb, click.Context(verb, parent=top, info_name=name, **verb.context_settings)


@pytest.mark.parametrize("name", ALL)
def test_a_verb_has_the_overview_that_the_table_promises(name: str) -> None:
    verb, _ = context_of(name)
    assert verb.name == name
    assert (verb.help or "").split("\n")[0] == {**VERBS, **HIDDEN}[name]


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_is_explained(name: str) -> None:
    verb, ctx = context_of(name)
    for param in verb.params:
        text = getattr(param, "help", None) or ""
        assert text.endswith("."), f"{name}: {param.name}"
        assert param.make_metavar(ctx).startswith(("<", "[")) or getattr(param, "is_flag", False), param.name


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("name", ALL)
def test_a_screen_fits_its_width_and_keeps_its_columns(name: str, width: int) -> None:
    verb, ctx = context_of(name)
    lines = screen(verb, ctx, hidden=True, width=width).split("\n")
    assert lines[0].startswith("OVERVIEW: ")
    assert any(line.startswith(f"USAGE: tart {name}") for line in lines)
    too_long = [line for line in lines if len(line) > max(width, 46) and not line.startswith("  See ")]
    assert [line for line in too_long if " " in line.strip() and not line.startswith("  --")] == []
    start = lines.index("OPTIONS:") + 1
    assert [line for line in lines[start:] if line[:26].strip() and line[:2] != "  "] in ([], ["SUBCOMMANDS:"])


def test_text_begins_in_column_26() -> None:
    verb, ctx = context_of("stop")
    lines = screen(verb, ctx, hidden=False, width=80).split("\n")
    assert lines[lines.index("ARGUMENTS:") + 1] == "  <name>                  VM to stop."
    assert "  -h, --help              Show help information." in lines


def test_a_label_too_long_has_its_own_line() -> None:
    verb, ctx = context_of("stop")
    lines = screen(verb, ctx, hidden=True, width=80).split("\n")
    at = lines.index("  --generate-completion-script [<shell>]")
    assert lines[at + 1].startswith(" " * 26 + "Print")


def test_top_level_help_lists_the_verbs_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(["--help"]) == 0
    lines = capsys.readouterr().out.split("\n")
    names = [line.split()[0] for line in lines[lines.index("SUBCOMMANDS:") + 1 :] if line[2:3].strip()]
    assert names[: len(VERBS)] == list(VERBS)


@pytest.mark.parametrize("name", ALL)
def test_help_of_a_verb_can_be_asked_for_in_two_ways(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(["help", name]) == 0
    by_verb = capsys.readouterr().out
    assert code_of([name, "--help"]) == 0
    assert capsys.readouterr().out == by_verb


@pytest.mark.parametrize("words", [["nope"], ["list", "more"]])
def test_help_of_what_does_not_exist_is_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(["help", *words]) == 64
    assert words[-1] in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "width"), [("100", 100), ("0", 80), ("x", 80), ("-5", 80), ("", 80)])
def test_the_width_is_told_by_the_environment(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_terminal(_: int) -> os.terminal_size:
        raise OSError

    monkeypatch.setattr(os, "get_terminal_size", no_terminal)
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal_width() == width
