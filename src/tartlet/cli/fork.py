"""`tart fork`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import running_vms
from tartlet.cli.failures import reported
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import UserError


@click.command("fork", cls=Verb)
@click.argument("name", metavar="<name>", help="Running VM.", shell_complete=running_vms)
@click.argument("new_names", metavar="<new-name>", nargs=-1, required=True, help="Name of a VM to make of it.")
@click.pass_context
def command(ctx: click.Context, name: str, new_names: tuple[str, ...]) -> None:
    """Make running copies of a running VM, memory included.

    They go on from its present moment in the background, share memory and disk blocks until one of them writes, and
    have names and addresses of their own. Prints the name of each; the exit code is 1 when one could not be made.
    """
    app: App = ctx.obj

    import anyio

    from tartlet.vm.control.fork import fork

    failed = False
    for result in anyio.run(fork, app.store, name, new_names):
        if isinstance(result, UserError):
            failed = True
            reported(result)
        else:
            click.echo(result.name)
    if failed:
        ctx.exit(1)
