"""What a VM asks of the network, and what it is given for one run. Values: nothing is opened here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from tartlet.errors import UserError
from tartlet.network.lookup.leases import mac_bytes
from tartlet.network.record import NetworkRecord

if TYPE_CHECKING:
    from tartlet.network.filter_state import FilterState

SSH = 22
EVERYWHERE = "0.0.0.0"  # noqa: S104 - where exposed ports are reached


class NetworkMode(StrEnum):
    """What a guest may reach."""

    NAT = "nat"
    """The Internet and what the host reaches; the default."""
    SOFTNET = "softnet"
    """Like NAT, through a filter of what the guest may reach (`--net-softnet*`)."""
    HOST = "host"
    """The host only (`--net-host`)."""
    BRIDGED = "bridged"
    """The host's own network, like any machine there (`--net-bridged`)."""


def card_mac(mac: str, index: int) -> str:
    """The MAC address of a VM's card: the first has the VM's own, the others have ones derived from it."""
    numbers = mac_bytes(mac)
    if not index or numbers is None:
        return mac
    return bytes((*numbers[:5], (numbers[5] + index) % 256)).hex(":")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A TCP port of the VM's address on the host that leads to a port of the guest."""

    port: int
    guest_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRequest:
    """One VM that wants to be plugged in."""

    vm: str
    """The VM's name, for messages and host names."""
    mac: str
    mode: NetworkMode = NetworkMode.NAT
    interfaces: tuple[str, ...] = ()
    """Host interfaces for `BRIDGED`, one network card each."""
    allow: str | None = None
    """`--net-softnet-allow` as it was typed; likewise `block` and `expose`."""
    block: str | None = None
    expose: str | None = None
    control_descriptor: int | None = None
    """`--net-softnet-control-fd`: the socket over which the policy is changed later."""
    refusals: Path | None = None
    """Where a backend that filters writes down what it refuses (`refusals.recorded`)."""
    forwards: tuple[Forward, ...] = ()
    """Ports beyond SSH."""
    keep: NetworkRecord | None = None
    """The network of the VM's last run: a guest that is resumed keeps its old address and asks for no new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cable:
    """The host's end of one network card."""

    netdev: str
    """What follows QEMU's `-netdev`, without an id: `socket,fd=9`."""
    descriptors: tuple[int, ...] = ()
    """Descriptors that `netdev` speaks of; QEMU inherits them under the same numbers."""
    mtu: int | None = None
    """Bytes of the longest packet that it carries, where that is less than Ethernet's and the guest must know."""


async def nothing_more() -> AsyncGenerator[NetworkRecord]:
    """The `later` of a network that knows everything when it begins."""
    nothing = list[NetworkRecord]()
    for record in nothing:
        yield record


async def nothing_is_lost() -> NetworkLost:
    """The `lost` of a network without helpers."""
    await anyio.sleep_forever()
    raise AssertionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A network that stands; it is taken down when the block that gave it ends."""

    cables: tuple[Cable, ...]
    """One for each network card, in card order."""
    record: NetworkRecord
    """What `tart ip` will read. The supervisor writes it into the VM's folder."""
    lost: Callable[[], Awaitable[NetworkLost]]
    """Waits until a helper of this network has ended by itself, and tells which; for ever when there is none."""
    later: Callable[[], AsyncGenerator[NetworkRecord]] = nothing_more
    """What takes the record's place as more becomes known while the VM runs."""
    notes: tuple[str, ...] = ()
    """Lines for the user, on standard error."""
    filter_state: Callable[[], Awaitable[FilterState]] | None = None
    """What the VM's filter does at the moment; None for a network without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """Why a backend cannot be used here."""

    reason: str
    hint: str | None = None


class NetworkLost(UserError):
    """A helper process of a running VM's network ended by itself."""


class BackendUnusable(UserError):
    """A backend that looked usable did not start. Another one may serve as well."""

    def __init__(self, backend: str, lack: Lack) -> None:
        super().__init__(f"network backend {backend}: {lack.reason}", lack.hint)
        self.backend, self.lack = backend, lack


class ModeUnavailable(UserError):
    """No backend on this host can give the isolation or the bridge that was asked for; less is never given silently."""

    def __init__(self, option: str, needed: str) -> None:
        super().__init__(f"{option} cannot be honoured on this host: {needed}")
        self.hint = "run without it if the default network will do; `tart doctor` lists the network backends"
