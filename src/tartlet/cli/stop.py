"""`tart stop`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import running_vms
from tartlet.cli.numbers import U64
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("stop", cls=Verb)
@click.argument("name", metavar="<name>", help="VM to stop.", shell_complete=running_vms)
@click.option(
    "-t", "--timeout", metavar="<seconds>", type=U64, default=30, help="How long it may take before it is forced."
)
@click.pass_obj
def command(app: App, name: str, timeout: int) -> None:
    """Stop a VM.

    Its power is cut at once, without asking the guest. Stopping a suspended VM throws its saved state away.
    """
    from tartlet.vm.control.stop import stop

    stop(app.store.open(name), timeout)
