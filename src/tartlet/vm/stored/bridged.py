"""Which VMs are on the host's own networks."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from tartlet.errors import UserError
from tartlet.network import record
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.store import VmStore


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgedVm:
    """A VM that runs with `--net-bridged`."""

    name: str
    mac: str
    """Of its first card."""
    address: IPv4Address | None
    """What its first card uses, as far as it has told any neighbour; None before that, or where that is not heard."""
    interfaces: tuple[str, ...]
    """The host's interfaces, in the order of its cards."""


def bridged_vms(store: VmStore) -> tuple[BridgedVm, ...]:
    """Those of the home that run now, by name."""
    found = (_bridged(vm) for vm in store.all() if vm.supervisor())
    return tuple(sorted(filter(None, found), key=lambda one: one.name))


def _bridged(vm: VmFolder) -> BridgedVm | None:
    known = record.read(vm.path)
    if known is None or not known.interfaces:
        return None
    try:
        mac = vm.config().mac_address
    except UserError:  # it was deleted in this moment
        return None
    address = IPv4Address(known.address) if known.address else None
    return BridgedVm(name=vm.name, mac=mac, address=address, interfaces=known.interfaces)
