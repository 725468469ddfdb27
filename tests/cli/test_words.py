"""The argument rules that every verb shares (one toy verb has every kind of parameter)."""

from __future__ import annotations

import click
import pytest

from tartlet.cli.failures import WRONG_USAGE, reported
from tartlet.cli.numbers import AT_LEAST_ONE, U16, U64
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument
from tartlet.version import PRINTED_VERSION

Params = dict[str, object]


@click.command("toy", cls=Verb)
@click.argument("name", metavar="<name>", help="The toy.")
@click.argument("more", metavar="<more>", required=False)
@click.option("-i", "interactive", is_flag=True)
@click.option("-t", "--timeout", metavar="<seconds>", type=U64, default=30)
@click.option("-v", "verbose", is_flag=True)
@click.option("--disk", "disks", metavar="<path>", multiple=True)
@click.option("--size", metavar="<gb>", type=U16)
@click.option("--at-least", metavar="<n>", type=AT_LEAST_ONE, default=4)
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text")
@click.option("--refit/--no-refit", default=None)
@click.option("--secret", is_flag=True, hidden=True, help="Not for everyone.")
def toy(**params: object) -> None:
    """A toy."""
    if params["name"] == "forbidden":
        raise InvalidArgument("that name is forbidden", "choose another")


@click.command("passing", cls=Verb, context_settings={"allow_interspersed_args": False})
@click.option("-i", "interactive", is_flag=True)
@click.argument("name", metavar="<name>")
@click.argument("words", metavar="<command>", nargs=-1, type=click.UNPROCESSED)
def passing(**_: object) -> None:
    """A verb whose words after the first belong to somebody else."""


def parsed(*words: str, command: click.Command = toy) -> Params:
    return command.make_context("tart toy", list(words)).params


def wrong(*words: str, command: click.Command = toy) -> str:
    with pytest.raises(click.UsageError) as caught:
        command.make_context("tart toy", list(words))
    return caught.value.format_message()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["vm", "--size", "7"], {"size": 7}),
        (["vm", "--size=7"], {"size": 7}),
        (["--size", "7", "vm"], {"size": 7, "name": "vm"}),
        (["vm", "--size", "7", "other"], {"size": 7, "name": "vm", "more": "other"}),
        (["vm", "-iv"], {"interactive": True, "verbose": True}),
        (["vm", "-t", "5"], {"timeout": 5}),
        (["vm", "-t=5"], {"timeout": 5}),
        (["vm", "--size", "1", "--size", "2"], {"size": 2}),
        (["vm", "--disk", "a", "--disk=b", "--disk", "c"], {"disks": ("a", "b", "c")}),
        (["vm", "--disk=-a"], {"disks": ("-a",)}),
        (["vm", "--disk=--size=1"], {"disks": ("--size=1",), "size": None}),
        (["vm", "--disk", "-"], {"disks": ("-",)}),
        (["vm", "--disk="], {"disks": ("",)}),
        (["vm", "-i", "-i"], {"interactive": True}),
        (["vm"], {"refit": None}),
        (["vm", "--refit", "--no-refit"], {"refit": False}),
        (["vm", "--no-refit", "--refit"], {"refit": True}),
        (["--", "-vm"], {"name": "-vm"}),
        (["vm", "--", "--size"], {"name": "vm", "more": "--size", "size": None}),
        (["vm", "--", "--help"], {"more": "--help"}),
        (["vm", "--size", "0"], {"size": 0}),
        (["vm", "--size", "65535"], {"size": 65535}),
        (["vm", "--size", "+5"], {"size": 5}),
        (["vm", "--size", "007"], {"size": 7}),
        (["vm", "-t", "18446744073709551615"], {"timeout": 2**64 - 1}),
    ],
)
def test_words_are_read(words: list[str], expected: Params) -> None:
    params = parsed(*words)
    assert {key: params[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["vm", "--size", "-1"], "--size"),
        (["vm", "--disk", "-a"], "--disk"),
        (["vm", "--disk", "--size"], "--disk"),
        (["vm", "--disk"], "--disk"),
        (["vm", "--disk", "--"], "--disk"),
        (["vm", "-t"], "-t"),
        (["vm", "-t", "-i"], "-t"),
        (["vm", "-i=x"], "-i"),
        (["vm", "--secret=x"], "--secret"),
        (["vm", "--bogus"], "--bogus"),
        (["vm", "--siz", "1"], "--siz"),
        (["vm", "-x"], "-x"),
        (["vm", "a", "b"], "b"),
        ([], "<name>"),
        (["vm", "--size", "65536"], "65536"),
        (["vm", "--size=-1"], "-1"),
        (["vm", "--size", "1.5"], "1.5"),
        (["vm", "--size", "1_0"], "1_0"),
        (["vm", "--size", " 1"], " 1"),
        (["vm", "--size", "٣"], "٣"),
        (["vm", "--size="], "--size"),
        (["vm", "--size", "9" * 5000], "--size"),
        (["vm", "-t", "18446744073709551616"], "18446744073709551616"),
        (["vm", "--at-least", "0"], "0"),
        (["vm", "--format", "xml"], "xml"),
        (["vm", "--format", "JSON"], "JSON"),
    ],
)
def test_wrong_words_are_refused_and_named(words: list[str], named: str) -> None:
    assert named in wrong(*words)


@pytest.mark.parametrize(
    ("words", "name", "rest"),
    [
        (["vm", "ls", "-l"], "vm", ("ls", "-l")),
        (["vm", "ls", "--help"], "vm", ("ls", "--help")),
        (["vm", "--", "ls"], "vm", ("--", "ls")),
        (["-i", "vm", "-i"], "vm", ("-i",)),
        (["vm", "--version"], "vm", ("--version",)),
    ],
)
def test_words_after_the_first_can_belong_to_another_program(
    words: list[str], name: str, rest: tuple[str, ...]
) -> None:
    params = parsed(*words, command=passing)
    assert (params["name"], params["words"]) == (name, rest)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["-h"], ["vm", "--help"], ["--size", "70000", "--help"], ["--bogus", "-h"], ["a", "b", "c", "--help"]],
)
def test_help_wins_over_mistakes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit) as ended:
        toy.make_context("tart toy", words)
    assert ended.value.exit_code == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("OVERVIEW: A toy.")
    assert "--secret" not in shown.out
    assert shown.err == ""


def test_hidden_options_show_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit):
        toy.make_context("tart toy", ["--help-hidden"])
    assert "--secret" in capsys.readouterr().out


def test_the_version_is_printed_wherever_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit):
        toy.make_context("tart toy", ["vm", "--version"])
    assert capsys.readouterr().out == f"{PRINTED_VERSION}\n"


def test_an_option_in_the_place_of_a_value_is_not_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed("vm", "--disk=--help")["disks"] == ("--help",)
    assert capsys.readouterr().out == ""


def test_a_wrong_value_is_framed_as_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.UsageError) as caught:
        toy.make_context("tart toy", ["vm", "--size", "x"])
    assert reported(caught.value) == WRONG_USAGE
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Error: ")
    assert lines[1].startswith("Help:  --size <gb>")
    assert lines[2].startswith("Usage: tart toy <name>")
    assert lines[3].startswith("  ")
    assert "tart toy --help" in lines[3]


def test_a_broken_rule_of_the_domain_is_wrong_usage_too(capsys: pytest.CaptureFixture[str]) -> None:
    with toy.make_context("tart toy", ["forbidden"]) as ctx, pytest.raises(click.UsageError) as caught:
        toy.invoke(ctx)
    assert reported(caught.value) == WRONG_USAGE
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["Error: that name is forbidden", "Help:  choose another"]
    assert lines[2].startswith("Usage: tart toy")
