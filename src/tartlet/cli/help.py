"""`tart help`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import verbs
from tartlet.cli.words import NoSuchVerb, Verb, help_screen


@click.command("help", cls=Verb)
@click.argument("subcommands", metavar="<subcommand>", nargs=-1, help="What to show the help of.", shell_complete=verbs)
@click.pass_context
def command(ctx: click.Context, subcommands: tuple[str, ...]) -> None:
    """Show help about the program or one of its subcommands."""
    top = ctx.find_root()
    shown: click.Command = top.command
    where = top
    for name in subcommands:
        if not isinstance(shown, click.Group):
            ctx.fail(f"{where.command_path} has no subcommands")
        found = shown.get_command(where, name)
        if found is None:
            raise NoSuchVerb(name, shown, where)
        where = click.Context(found, parent=where, info_name=name, **found.context_settings)
        shown = found
    click.echo(help_screen(shown, where))
