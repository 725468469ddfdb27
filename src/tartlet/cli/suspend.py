"""`tart suspend`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import running_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("suspend", cls=Verb)
@click.argument("name", metavar="<name>", help="VM to suspend.", shell_complete=running_vms)
@click.pass_obj
def command(app: App, name: str) -> None:
    """Save a running VM to disk; its next run continues there.

    Returns at once: follow the state with 'tart get', or wait for the end with 'tart wait'.
    """
    import anyio

    from tartlet.vm.control.stop import request_suspend

    anyio.run(request_suspend, app.store.open(name))
