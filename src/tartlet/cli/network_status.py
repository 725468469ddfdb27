"""`tart network status`, `tart network set` and `tart network unset`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import click

from tartlet.cli.formats import JSON, format_option
from tartlet.cli.output import json_text, table
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.network.filter_state import FilterState
from tartlet.network.status import NetworkedVm, SharedNetwork

if TYPE_CHECKING:
    from tartlet.vm.stored.bridged import BridgedVm

_TITLES = ("Network", "Backend", "Kind", "VM", "Address", "MAC", "Allow", "Block", "Revision", "Refused", "Forged")
_NOTHING = "-"


@click.command("status", cls=Verb)
@format_option
@click.pass_obj
def status(app: App, *, format_: str) -> None:
    """Show the settings of the network that VMs share, the VMs that run in it, and those that are bridged.

    The addresses are the guests' own. From this host a guest is reached by what tart ip prints, which is the same with
    the backend bridge. Its network is shared by all users of this host: who is not root is shown his own VMs.
    Allow and Block count the rules in force. Refused counts the packets that they stopped, Forged those that bore
    another machine's address. What the filter of a VM in another home does is not told.
    """
    import anyio

    from tartlet.network import preferences
    from tartlet.network.status import shared_networks
    from tartlet.vm.control.filter_state import filter_states
    from tartlet.vm.stored.bridged import bridged_vms

    settings = preferences.shown(preferences.read(), preferences.read(preferences.SYSTEM_FILE))
    networks = anyio.run(shared_networks)
    filters = anyio.run(filter_states, app.uncollected_store) if networks else {}
    bridged = bridged_vms(app.uncollected_store)
    if format_ == JSON:
        shared = [_document(one, filters) for one in networks]
        click.echo(json_text({"Settings": settings, "Networks": shared, "Bridged": [_bridged(vm) for vm in bridged]}))
        return
    click.echo(table(("Setting", "Value"), list(settings.items())))
    rows = [row for one in networks for row in _rows(one, filters)] + [_bridged_row(vm) for vm in bridged]
    click.echo("\n" + (table(_TITLES, rows) if rows else "No VM runs in it."))


@click.command("set", cls=Verb)
@click.argument("key", metavar="<key>", help="Setting, as 'tart network status' names it.")
@click.argument("value", metavar="<value>", help="What it shall be from the next start of the network on.")
@click.option("--system", is_flag=True, help="Of the networks that all users of this host share (backend bridge).")
def set_(*, key: str, value: str, system: bool) -> None:
    """Change a setting of the network that VMs share, while none runs in it.

    The network has the address and the mask of nat, for --net-host those of host. The address may be that of the
    gateway, which is the first one, or of the network. Lease times are in seconds.
    """
    import anyio

    from tartlet.network.status import change_setting

    anyio.run(partial(change_setting, key, value, system=system))


@click.command("unset", cls=Verb)
@click.argument("key", metavar="<key>", help="Setting, as 'tart network status' names it.")
@click.option("--system", is_flag=True, help="Of the networks that all users of this host share (backend bridge).")
def unset(*, key: str, system: bool) -> None:
    """Give a setting of the network that VMs share its default again, while none runs in it."""
    import anyio

    from tartlet.network.status import reset_setting

    anyio.run(partial(reset_setting, key, system=system))


def _rows(one: SharedNetwork, filters: Mapping[str, FilterState]) -> list[tuple[str, ...]]:
    return [
        (
            str(one.network),
            one.backend,
            _kind(one),
            vm.name,
            str(vm.address),
            vm.mac,
            *_filter_cells(filters.get(vm.mac)),
        )
        for vm in one.vms
    ]


def _bridged_row(vm: BridgedVm) -> tuple[str, ...]:
    address = str(vm.address) if vm.address else _NOTHING
    return (",".join(vm.interfaces), "bridged", "bridged", vm.name, address, vm.mac, *_filter_cells(None))


def _bridged(vm: BridgedVm) -> dict[str, object]:
    address = str(vm.address) if vm.address else None
    return {"Name": vm.name, "Interfaces": list(vm.interfaces), "Address": address, "MAC": vm.mac}


def _filter_cells(state: FilterState | None) -> tuple[str, ...]:
    if state is None:
        return (_NOTHING,) * 5
    from tartlet.guest.errors import escaped

    revision = escaped(state.revision or "") or _NOTHING
    lists = [_NOTHING if elements is None else str(len(elements)) for elements in (state.allow, state.block)]
    return (*lists, revision, str(state.refused), str(state.forged))


def _kind(one: SharedNetwork) -> str:
    return "host-only" if one.host_only else "nat"


def _document(one: SharedNetwork, filters: Mapping[str, FilterState]) -> dict[str, object]:
    return {
        "Network": str(one.network),
        "Gateway": str(one.gateway),
        "Backend": one.backend,
        "Kind": _kind(one),
        "Capacity": one.capacity,
        "Running": one.running,
        "VMs": [_vm_document(vm, filters.get(vm.mac)) for vm in one.vms],
    }


def _vm_document(vm: NetworkedVm, state: FilterState | None) -> dict[str, object]:
    known = {"Name": vm.name, "Address": str(vm.address), "MAC": vm.mac}
    if state is None:
        return {**known, "Filter": None}
    told = {"Allow": state.allow, "Block": state.block, "Revision": state.revision, "Dropped": state.dropped}
    return {**known, "Filter": told}
