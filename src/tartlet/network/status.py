"""What stands of the networks that VMs share, and changes that must wait until nothing does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from tartlet.errors import InvalidArgument, UserError
from tartlet.network import preferences
from tartlet.network.bridge import host_line
from tartlet.network.bridge.host_line import NAME as HOSTS
from tartlet.network.namespace import line
from tartlet.network.namespace.userns import NAME
from tartlet.network.shared import keepers
from tartlet.network.shared.rights import RightsMissing

_QUESTION = {"do": "status"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkedVm:
    """A VM that runs in a shared network."""

    name: str
    mac: str
    address: IPv4Address
    """The guest's own, inside the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedNetwork:
    """A network that stands because VMs run in it."""

    backend: str
    """`userns` for one of this user's own, `bridge` for the host's, which its users share."""
    network: IPv4Network
    gateway: IPv4Address
    capacity: int
    """VMs that can run in it at once."""
    host_only: bool
    running: int
    """VMs in it, those of other users too."""
    vms: tuple[NetworkedVm, ...]
    """This user's; root sees those of everybody."""


class NetworkInUse(UserError):
    """A setting cannot change under VMs that run."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(
            f"the network is in use by {', '.join(names)}", "stop these VMs first, then change the setting"
        )
        self.names = names


async def shared_networks() -> tuple[SharedNetwork, ...]:
    """The networks of this user's VMs that stand now; none without a VM in them. Raises BackendUnusable."""
    return (*await _own_networks(), *await _hosts_networks())


async def change_setting(key: str, value: str, *, system: bool = False) -> None:
    """Write a setting of the networks, while no VM runs in one if it is about them as a whole.

    `system`: of those that the users of this host share, which only root may. Raises InvalidArgument, RightsMissing,
    NetworkInUse, PreferencesBroken, FileTrouble, BackendUnusable.
    """
    preferences.check(key, value)
    await _check_changeable(key, f"set --system {key} {value}", system=system)
    preferences.change(key, value, preferences.SYSTEM_FILE if system else None)


async def reset_setting(key: str, *, system: bool = False) -> None:
    """Let a setting have its default again. `system`, waiting and errors are as with `change_setting`."""
    preferences.check_key(key)
    await _check_changeable(key, f"unset --system {key}", system=system)
    preferences.reset(key, preferences.SYSTEM_FILE if system else None)


async def _check_changeable(key: str, by_root: str, *, system: bool) -> None:
    """`by_root`: the words after `tart network` by which root does it for the whole host."""
    if system and os.geteuid() != 0:
        raise RightsMissing(by_root)
    if key in preferences.SYSTEM_ONLY and not system:
        raise InvalidArgument(f"{key} is a setting of the whole host", f"sudo tart network {by_root}")
    if key not in preferences.AT_ONCE:
        await _check_unused(system=system)


async def _check_unused(*, system: bool) -> None:
    networks = await (_hosts_networks() if system else _own_networks())
    names = sorted(vm.name for network in networks for vm in network.vms)
    if names:
        raise NetworkInUse(names)


async def _own_networks() -> list[SharedNetwork]:
    told = await line.asked(NAME, _QUESTION)
    return [_network(NAME, one) for one in told["networks"]] if told else []


async def _hosts_networks() -> list[SharedNetwork]:
    found: list[SharedNetwork] = []
    for keeper in (host_line.by_socket(), host_line.on_demand()):
        told = await keepers.asked(keeper, _QUESTION)
        found += [_network(HOSTS, one) for one in told["networks"]] if told else []
    return found


def _network(backend: str, told: dict[str, Any]) -> SharedNetwork:
    vms = (NetworkedVm(name=vm["name"], mac=vm["mac"], address=IPv4Address(vm["address"])) for vm in told["vms"])
    return SharedNetwork(
        backend=backend,
        network=IPv4Network(told["network"]),
        gateway=IPv4Address(told["gateway"]),
        capacity=int(told["capacity"]),
        host_only=bool(told["host_only"]),
        running=int(told.get("running", len(told["vms"]))),
        vms=tuple(vms),
    )
