"""Help screens in the shape of the original's."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import click

_INDENT = 26
"""Where the text beside a label begins."""

_MANY = 12
"""More options than this are one word in the usage line."""

_STANDING = (
    ("--version", "Show the version."),
    ("-h, --help", "Show help information."),
)
_STANDING_HIDDEN = (
    ("--help-hidden", "Show help with the hidden options."),
    ("--generate-completion-script [<shell>]", "Print the completion script for bash, zsh or fish."),
)


@runtime_checkable
class HasVerbs(Protocol):
    """A command whose first word chooses one of its own."""

    def overviews(self) -> Iterable[tuple[str, str]]:
        """Each of those and its line."""
        ...


def terminal_width() -> int:
    """Columns of the terminal, as `COLUMNS` or the terminal itself says; 80 without one."""
    told = os.environ.get("COLUMNS", "")
    if told.isascii() and told.isdecimal() and int(told[:6]) > 0:
        return int(told[:6])
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def screen(command: click.Command, ctx: click.Context, *, hidden: bool, width: int) -> str:
    """The whole help of `command`, wrapped to `width` columns, without a newline at its end."""
    blocks = [
        _wrapped(f"OVERVIEW: {command.help or ''}", width),
        textwrap.fill(f"USAGE: {synopsis(command, ctx)}", width, subsequent_indent="  ", break_on_hyphens=False),
        _block("ARGUMENTS:", _arguments(command, ctx), width),
        _block("OPTIONS:", _options(command, ctx, hidden=hidden), width),
    ]
    if isinstance(command, HasVerbs):
        blocks.append(_block("SUBCOMMANDS:", command.overviews(), width))
        program = ctx.find_root().command_path
        words = ctx.command_path.removeprefix(program).strip()
        blocks.append(f"  See '{' '.join(filter(None, (program, 'help', words)))} <subcommand>' for detailed help.")
    return "\n\n".join(block for block in blocks if block)


def synopsis(command: click.Command, ctx: click.Context) -> str:
    """How to call `command`: `tart ip <name> [--wait <seconds>]`."""
    if isinstance(command, click.Group):
        return f"{ctx.command_path} <subcommand>"
    options = [_option_usage(param, ctx) for param in _options_of(command) if not param.hidden]
    if len(options) > _MANY:
        options = ["[<options>]"]
    words = [_argument_usage(param, ctx) for param in command.params if isinstance(param, click.Argument)]
    parts = [*words, *options] if ctx.allow_interspersed_args else [*options, *words]
    return " ".join([ctx.command_path, *parts])


def label(param: click.Parameter, ctx: click.Context) -> str:
    """How the left column of a help screen names `param`: `-t, --timeout <seconds>`."""
    if not isinstance(param, click.Option):
        return param.make_metavar(ctx)
    names = ", ".join(sorted(param.opts, key=len)) + "".join(f"/{name}" for name in param.secondary_opts)
    return names if param.is_flag else f"{names} {_value(param, ctx)}"


def described(param: click.Parameter) -> str:
    """What the right column says about `param`, with its choices and its default."""
    text = getattr(param, "help", None) or ""
    if not isinstance(param, click.Option) or param.is_flag:
        return text
    if isinstance(param.type, click.Choice):
        text += f" (values: {', '.join(map(str, param.type.choices))}{_default(param, '; default: ')})"
        return text
    return text + (f" ({_default(param, 'default: ')})" if _default(param, "") else "")


def _default(param: click.Option, before: str) -> str:
    known = isinstance(param.default, str | int) and param.default != ""
    return f"{before}{param.default}" if known else ""


def _options_of(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option)]


def _value(param: click.Option, ctx: click.Context) -> str:
    if param.metavar is None and isinstance(param.type, click.Choice):
        return f"<{'|'.join(map(str, param.type.choices))}>"
    return param.make_metavar(ctx)


def _option_usage(param: click.Option, ctx: click.Context) -> str:
    name = max(param.opts, key=len)
    usage = name if param.is_flag else f"{name} {_value(param, ctx)}"
    alternatives = "".join(f"|{name}" for name in param.secondary_opts)
    return f"[{usage}{alternatives}]{' ...' if param.multiple else ''}"


def _argument_usage(param: click.Argument, ctx: click.Context) -> str:
    usage = param.make_metavar(ctx) + (" ..." if param.nargs == -1 else "")
    return usage if param.required else f"[{usage}]"


def _arguments(command: click.Command, ctx: click.Context) -> list[tuple[str, str]]:
    return [(label(param, ctx), described(param)) for param in command.params if isinstance(param, click.Argument)]


def _options(command: click.Command, ctx: click.Context, *, hidden: bool) -> list[tuple[str, str]]:
    own = [(label(param, ctx), described(param)) for param in _options_of(command) if hidden or not param.hidden]
    return [*own, *_STANDING, *(_STANDING_HIDDEN if hidden else ())]


def _block(title: str, rows: Iterable[tuple[str, str]], width: int) -> str:
    lines = [line for name, text in rows for line in _row(name, text, width)]
    return "\n".join([title, *lines]) if lines else ""


def _row(name: str, text: str, width: int) -> list[str]:
    """A label and its text; a label too long for its column has a line of its own."""
    start = f"  {name}"
    lines = textwrap.wrap(text, max(width - _INDENT, 20), break_on_hyphens=False) or [""]
    beside = len(start) < _INDENT
    first = [f"{start:{_INDENT}}{lines[0]}".rstrip()] if beside else [start, *_indented(lines[:1])]
    return [*first, *_indented(lines[1:])]


def _indented(lines: list[str]) -> list[str]:
    return [" " * _INDENT + line for line in lines if line]


def _wrapped(text: str, width: int) -> str:
    """`text` with each of its paragraphs filled to `width`."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    return "\n\n".join(textwrap.fill(paragraph, width, break_on_hyphens=False) for paragraph in paragraphs)
