"""`tart help`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import verbs
from tartlet.cli.words import Verb, help_screen


@click.command("help", cls=Verb)
@click.argument("subcommands", metavar="<subcommand>", nargs=-1, help="What to show the help of.", shell_complete=verbs)
@click.pass_context
def command(ctx: click.Context, subcommands: tuple[str, ...]) -> None:
    """Show help about the program or one of its subcommands."""
    top = ctx.find_root()
    shown: click.Command = top.command
    where = top
    for name in subcommands:
        found = shown.get_command(where, name) if isinstance(shown, click.Group) else None
        if found is None:
            ctx.fail(f"there is no subcommand '{' '.join(subcommands)}'")
        where = click.Context(found, parent=where, info_name=name, **found.context_settings)
        shown = found
    click.echo(help_screen(shown, where))
