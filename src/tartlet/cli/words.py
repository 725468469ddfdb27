"""How the words of a command line are read: the original's argument rules on top of click.

Where click and the original differ, the original wins:

* `--option -x` is a missing value; `--option=-x` passes one that begins with a dash.
* `--help`, `--help-hidden`, `--version` and `--generate-completion-script` answer before anything is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import click

from tartlet.errors import InvalidArgument
from tartlet.version import PRINTED_VERSION

SHELLS = ("bash", "zsh", "fish")


class RuleBroken(click.UsageError):
    """Wrong usage found by a rule of the domain instead of the parser."""

    def __init__(self, cause: InvalidArgument, ctx: click.Context) -> None:
        super().__init__(str(cause), ctx)
        self.hint = cause.hint


class NoSuchVerb(click.UsageError):
    """A word that is none of the verbs that may stand there; the hint names the one that looks like it."""

    def __init__(self, word: str, group: click.Group, ctx: click.Context) -> None:
        super().__init__(f"there is no subcommand '{word}'", ctx)
        from difflib import get_close_matches

        alike = get_close_matches(word, group.list_commands(ctx), n=1)
        self.hint = f"did you mean {alike[0]}?" if alike else None


class Verb(click.Command):
    """A command with the original's argument rules. A rule that its function finds broken is wrong usage too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words after the verb. Raises click.UsageError, click.exceptions.Exit."""
        if not ctx.resilient_parsing:  # completing a half-written line judges nothing
            answer_standing_options(self, ctx, args)
            args = _checked_values(self, ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Do it. Raises what the domain raises, RuleBroken in the place of InvalidArgument."""
        try:
            return super().invoke(ctx)
        except InvalidArgument as exc:
            raise RuleBroken(exc, ctx) from exc

    def get_help(self, ctx: click.Context) -> str:
        """The help screen."""
        return help_screen(self, ctx)

    def get_usage(self, ctx: click.Context) -> str:
        """The one line that shows how to call this."""
        from tartlet.cli.help_screen import synopsis

        return synopsis(self, ctx)


class VerbGroup(click.Group):
    """A verb that has verbs of its own. Alone it shows its help."""

    def __init__(
        self, name: str, text: str, members: Iterable[click.Command], *, alone: Callable[[], None] | None = None
    ) -> None:
        """`alone` takes the place of showing the help; it runs before every member too."""
        super().__init__(
            name,
            commands=list(members),
            help=text,
            add_help_option=False,
            callback=alone or _help_without_a_verb,
            invoke_without_command=True,
            no_args_is_help=False,
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words before the verb. Raises click.UsageError, click.exceptions.Exit."""
        if not ctx.resilient_parsing:
            answer_standing_options(self, ctx, args)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that the first word names. Raises NoSuchVerb."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as exc:
            raise NoSuchVerb(args[0], self, ctx) from exc

    def overviews(self) -> Iterable[tuple[str, str]]:
        """Each verb and its line."""
        return ((name, (verb.help or "").partition("\n")[0]) for name, verb in self.commands.items())

    def get_help(self, ctx: click.Context) -> str:
        """The help screen."""
        return help_screen(self, ctx)

    def get_usage(self, ctx: click.Context) -> str:
        """The one line that shows how to call this."""
        from tartlet.cli.help_screen import synopsis

        return synopsis(self, ctx)


@click.pass_context
def _help_without_a_verb(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def help_screen(command: click.Command, ctx: click.Context, *, hidden: bool = False) -> str:
    """The help of `command`; with `hidden` also what is left out of it otherwise."""
    from tartlet.cli.help_screen import screen, terminal_width

    return screen(command, ctx, hidden=hidden, width=terminal_width())


def answer_standing_options(command: click.Command, ctx: click.Context, args: list[str]) -> None:
    """Answer the first option that every command has, if there is one, and end there."""
    for position, name, value in _options(command, ctx, args):
        match name:
            case "--help" | "-h":
                click.echo(help_screen(command, ctx))
            case "--help-hidden":
                click.echo(help_screen(command, ctx, hidden=True))
            case "--version":
                click.echo(PRINTED_VERSION)
            case "--generate-completion-script":
                click.echo(_completion_script(ctx, value or "".join(args[position + 1 : position + 2])), nl=False)
            case _:
                continue
        raise click.exceptions.Exit(0)


def _completion_script(ctx: click.Context, shell: str) -> str:
    from tartlet.cli.completion import script, shell_in_use

    chosen = shell or shell_in_use()
    if chosen not in SHELLS:
        ctx.fail(f"there is no completion script for {chosen!r}; choose one of {', '.join(SHELLS)}")
    return script(chosen)


def _checked_values(command: click.Command, ctx: click.Context, args: list[str]) -> list[str]:
    """`args` with `-t=5` written as `-t 5`. Raises BadOptionUsage for a value that is missing or too much."""
    checked = list(args)
    added = 0
    for position, name, value in _options(command, ctx, args):
        option = _known(command, name)
        if option is None:
            continue
        if value is None and not option.is_flag:
            following = args[position + 1 : position + 2]
            if not following or _is_option(following[0]):
                raise click.BadOptionUsage(name, f"Option '{name}' requires a value.", ctx)
        elif value is not None and option.is_flag:
            raise click.BadOptionUsage(name, f"Option '{name}' does not take a value.", ctx)
        elif value is not None and not name.startswith("--"):
            checked[position + added : position + added + 1] = [name, value]
            added += 1
    return checked


def _options(command: click.Command, ctx: click.Context, args: list[str]) -> Iterator[tuple[int, str, str | None]]:
    """The words that are options: where, the name, and what follows a `=` in the same word."""
    position = 0
    while position < len(args) and args[position] != "--":
        given = args[position]
        if _is_option(given):
            name, equals, value = given.partition("=")
            yield position, name, value if equals else None
            option = _known(command, name)
            following = args[position + 1 : position + 2]
            if option and not option.is_flag and not equals and following and not _is_option(following[0]):
                position += 1
        elif not ctx.allow_interspersed_args:
            return
        position += 1


def _is_option(given: str) -> bool:
    return given.startswith("-") and given != "-"


def _known(command: click.Command, name: str) -> click.Option | None:
    options = (param for param in command.params if isinstance(param, click.Option))
    return next((option for option in options if name in (*option.opts, *option.secondary_opts)), None)
