"""`tart sync`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import running_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("sync", cls=Verb)
@click.argument("name", metavar="<name>", help="VM whose folders to synchronise.", shell_complete=running_vms)
@click.pass_obj
def command(app: App, name: str) -> None:
    """Synchronise the folders of 'run --dir=...:sync' now.

    What the guest has changed comes to this machine, and what changed here goes to the guest. Prints a line for each
    folder, and for each file that both have changed: there this machine's stays, and the guest's lies beside it.
    """
    vm = app.store.open(name)

    import anyio

    from tartlet.guest.errors import escaped
    from tartlet.vm.control.sync_now import sync_now

    for done in anyio.run(sync_now, vm):
        click.echo(f"{done.path}: {done.brought} brought from the guest, {done.sent} copied into it")
        for path, beside in done.conflicts:
            click.echo(f"{escaped(path)} was changed on both sides: the guest's is {escaped(beside)}")
        for path in done.left:
            click.echo(f"{escaped(path)} changed meanwhile, or cannot be read: not synchronised")
