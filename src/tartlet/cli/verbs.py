"""The command itself; the module of a verb is imported when it is called and no earlier."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, cast

import click

from tartlet.cli.verb_table import HIDDEN, VERBS
from tartlet.cli.wiring import App
from tartlet.cli.words import VerbGroup

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


@click.pass_context
def _without_a_verb(ctx: click.Context) -> None:
    """Show the help. Runs before every verb too, and then leaves the word to it."""
    if ctx.invoked_subcommand is None:
        app: App = ctx.obj
        app.collect_garbage()
        click.echo(ctx.get_help())


class Tart(VerbGroup):
    """The command itself: its first word chooses the verb."""

    def __init__(self) -> None:
        text = "Run virtual machines, clone them, and keep them as images."
        super().__init__("tart", text, (), alone=_without_a_verb)

    def overviews(self) -> Iterable[tuple[str, str]]:
        """Each verb and its line, without importing it."""
        return VERBS.items()

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names of the verbs, in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The verb `cmd_name`, or None."""
        if cmd_name not in VERBS and cmd_name not in HIDDEN:
            return None
        return cast("click.Command", import_module(f"tartlet.cli.{cmd_name.replace('-', '_')}").command)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs that begin like `incomplete`, or the options that every command has."""
        from tartlet.cli.candidates import standing_options, verbs

        return standing_options(incomplete) if incomplete.startswith("-") else verbs(ctx, None, incomplete)
