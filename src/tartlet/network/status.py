"""What stands of the networks that VMs share, and changes that must wait until nothing does."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from tartlet.errors import UserError
from tartlet.network import line, preferences
from tartlet.network.userns import NAME


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

    network: IPv4Network
    gateway: IPv4Address
    capacity: int
    """VMs that can run in it at once."""
    host_only: bool
    vms: tuple[NetworkedVm, ...]


class NetworkInUse(UserError):
    """A setting cannot change under VMs that run."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(
            f"the network is in use by {', '.join(names)}", "stop these VMs first, then change the setting"
        )
        self.names = names


async def shared_networks() -> tuple[SharedNetwork, ...]:
    """The networks of this user's VMs that stand now; none without a VM in them. Raises BackendUnusable."""
    told = await line.asked(NAME, {"do": "status"})
    return tuple(_network(one) for one in told["networks"]) if told else ()


async def change_setting(key: str, value: str) -> None:
    """Write a setting of the networks, while no VM runs in one.

    Raises InvalidArgument, NetworkInUse, PreferencesBroken, FileTrouble.
    """
    preferences.check(key, value)
    names = sorted(vm.name for network in await shared_networks() for vm in network.vms)
    if names:
        raise NetworkInUse(names)
    preferences.change(key, value)


def _network(told: dict[str, Any]) -> SharedNetwork:
    vms = (NetworkedVm(name=vm["name"], mac=vm["mac"], address=IPv4Address(vm["address"])) for vm in told["vms"])
    return SharedNetwork(
        network=IPv4Network(told["network"]),
        gateway=IPv4Address(told["gateway"]),
        capacity=int(told["capacity"]),
        host_only=bool(told["host_only"]),
        vms=tuple(vms),
    )
