"""`tart wait`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import running_vms
from tartlet.cli.numbers import SECONDS
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("wait", cls=Verb)
@click.argument("name", metavar="<name>", help="VM to wait for.", shell_complete=running_vms)
@click.option("--timeout", metavar="<seconds>", type=SECONDS, help="How long to wait; then exit 124. The VM runs on.")
@click.pass_obj
def command(app: App, name: str, timeout: int | None) -> None:
    """Wait until a VM has ended, and print how it did.

    Of a VM that does not run, prints at once how its last run ended.
    """
    from tartlet.vm.control.stop import wait_until_stopped

    click.echo(wait_until_stopped(app.store.open(name), timeout).said())
