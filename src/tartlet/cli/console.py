"""`tart console`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import running_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("console", cls=Verb)
@click.argument("name", metavar="<name>", help="Running VM.", shell_complete=running_vms)
@click.pass_obj
def command(app: App, name: str) -> None:
    """Use the serial console of a running VM; Ctrl+] leaves it.

    Any number of consoles can be attached at once. 'tart logs --serial' shows what was said before.
    """
    vm = app.store.open(name)

    import anyio

    from tartlet.vm.control.attach import attach

    def greet() -> None:
        click.echo(f"Attached to the serial console of {name}. Ctrl+] detaches.", err=True)

    detached = anyio.run(attach, vm, greet)
    click.echo(f"\nDetached from {name}." if detached else f"\n{name} has ended.", err=True)
