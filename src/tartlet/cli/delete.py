"""`tart delete`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import any_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("delete", cls=Verb)
@click.argument("names", metavar="<name>", nargs=-1, required=True, help="VMs to delete.", shell_complete=any_vms)
@click.pass_obj
def command(app: App, names: tuple[str, ...]) -> None:
    """Delete VMs.

    They go in the given order; the first that cannot be deleted ends it.
    """
    for name in names:
        app.store.delete(name)
