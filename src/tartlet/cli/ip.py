"""`tart ip`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import local_vms
from tartlet.cli.numbers import U16
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("ip", cls=Verb)
@click.argument("name", metavar="<name>", help="VM whose address is wanted.", shell_complete=local_vms)
@click.option("--wait", metavar="<seconds>", type=U16, default=0, help="How long to keep trying.")
@click.option(
    "--resolver",
    metavar="<resolver>",
    type=click.Choice(["dhcp", "arp", "agent"]),
    help="Look it up in this way only: what the network's own DHCP gave out, what a bridged VM said on its "
    "network or else the neighbours of this host, or the guest's agent. Without it they are tried in that order.",
)
@click.pass_obj
def command(app: App, name: str, *, wait: int, resolver: str | None) -> None:
    """Print the IP address of a VM."""
    vm = app.store.open(name)

    import anyio

    from tartlet.network.lookup.resolve import Resolver
    from tartlet.vm.stored.address import wait_for_address

    click.echo(anyio.run(wait_for_address, vm, Resolver(resolver) if resolver else None, wait))
