"""`tart network log`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import local_vms
from tartlet.cli.formats import JSON, format_option
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("log", cls=Verb)
@click.argument("name", metavar="<name>", help="VM whose refused packets are wanted.", shell_complete=local_vms)
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the VM ends.")
@format_option
@click.pass_obj
def log(app: App, name: str, *, follow: bool, format_: str) -> None:
    """Show what the network refused a VM: where packets did not get, and by which rule.

    It is about the present run, or the last one, and needs a network with a filter, as --net-softnet gives. Packets to
    one destination are told once a second at most. As JSON each line is an object.
    """
    import anyio

    anyio.run(_printed, app, name, follow, format_)


async def _printed(app: App, name: str, follow: bool, format_: str) -> None:
    import json
    from dataclasses import asdict

    from tartlet.vm.stored.refusals import refusals

    async for refusal in refusals(app.store.find(name), follow=follow):
        click.echo(json.dumps(asdict(refusal)) if format_ == JSON else str(refusal))
