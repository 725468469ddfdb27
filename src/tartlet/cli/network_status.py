"""`tart network status` and `tart network set`."""

from __future__ import annotations

import click

from tartlet.cli.formats import JSON, format_option
from tartlet.cli.output import json_text, table
from tartlet.cli.words import Verb
from tartlet.network.status import SharedNetwork

_TITLES = ("Network", "Kind", "VM", "Address", "MAC")


@click.command("status", cls=Verb)
@format_option
def status(*, format_: str) -> None:
    """Show the settings of the network that VMs share, and the VMs that run in it.

    The addresses are the guests' own, inside the network. From this host a guest is reached by what tart ip prints.
    """
    import anyio

    from tartlet.network import preferences
    from tartlet.network.status import shared_networks

    settings = preferences.shown(preferences.read())
    networks = anyio.run(shared_networks)
    if format_ == JSON:
        click.echo(json_text({"Settings": settings, "Networks": [_document(one) for one in networks]}))
        return
    click.echo(table(("Setting", "Value"), list(settings.items())))
    rows = [row for one in networks for row in _rows(one)]
    click.echo("\n" + (table(_TITLES, rows) if rows else "No VM runs in it."))


@click.command("set", cls=Verb)
@click.argument("key", metavar="<key>", help="Setting, as `tart network status` names it.")
@click.argument("value", metavar="<value>", help="What it shall be from the next start of the network on.")
def set_(*, key: str, value: str) -> None:
    """Change a setting of the network that VMs share, while none runs in it.

    The network has the address and the mask of nat, for --net-host those of host. The address may be that of the
    gateway, which is the first one, or of the network. Lease times are in seconds.
    """
    import anyio

    from tartlet.network.status import change_setting

    anyio.run(change_setting, key, value)


def _rows(one: SharedNetwork) -> list[tuple[str, ...]]:
    return [(str(one.network), _kind(one), vm.name, str(vm.address), vm.mac) for vm in one.vms]


def _kind(one: SharedNetwork) -> str:
    return "host-only" if one.host_only else "nat"


def _document(one: SharedNetwork) -> dict[str, object]:
    return {
        "Network": str(one.network),
        "Gateway": str(one.gateway),
        "Kind": _kind(one),
        "Capacity": one.capacity,
        "VMs": [{"Name": vm.name, "Address": str(vm.address), "MAC": vm.mac} for vm in one.vms],
    }
