"""VMs on the host's own networks, like any machine there: each card is bridged to an interface of the host.

Addresses are given by whoever gives them there. `tart ip` knows the one the guest names in its ARP packets.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio.to_thread

from tartlet.errors import UserError
from tartlet.network.attachment import (
    Attachment,
    AttachRequest,
    BackendUnusable,
    Cable,
    Lack,
    NetworkMode,
    card_mac,
    nothing_is_lost,
)
from tartlet.network.bridge.bridge import Bridge
from tartlet.network.bridged import bridge_helper
from tartlet.network.bridged.bridged_line import bridged_by
from tartlet.network.cards import bridged_links, ear, interfaces
from tartlet.network.cards.bridged_links import BridgedLink
from tartlet.network.cards.interfaces import HostInterface, InterfaceKind
from tartlet.network.record import NetworkRecord
from tartlet.network.shared import links

log = logging.getLogger(__name__)

NAME = "bridged"
_NET_ADMIN = 12
"""CAP_NET_ADMIN of linux/capability.h."""

_ETHERNET = 1500
"""Bytes of the longest packet that every guest reckons with."""

_OWN_STATUS = Path("/proc/self/status")


class BridgingRefused(UserError):
    """Nobody here has the right to put a VM on that interface's network."""

    def __init__(self, interface: HostInterface) -> None:
        super().__init__(
            f"--net-bridged={interface.name}: this user may not change the host's network", _ways(interface)
        )
        self.interface = interface


class BridgingFailed(UserError):
    """The system did not make the host's end of a card."""

    def __init__(self, interface: HostInterface, cause: OSError) -> None:
        where = f" ({cause.filename})" if cause.filename else ""
        super().__init__(
            f"--net-bridged={interface.name}: {cause.strerror or cause}{where}",
            "is the kernel's module tun or macvtap missing?",
        )


class Bridged:
    """The networks that the host is on."""

    name = NAME
    modes = frozenset({NetworkMode.BRIDGED})
    offloads = True

    def __init__(self, *, on_demand: bool = False) -> None:
        """`on_demand`: where no privileged process is installed, one may be started by sudo."""
        self._service = Bridge(on_demand=on_demand)

    def lacking(self) -> Lack | None:
        """What keeps it from being used here, as far as that shows without an interface's name."""
        if sys.platform != "linux":
            return Lack(reason="taps and bridges are a thing of Linux")
        if shutil.which("ip") is None:
            return Lack(reason="the program ip was not found", hint="install it: apt install iproute2")
        if not _may_change_network() and _helper() is None and self._service.lacking():
            return Lack(reason="this user may not change the host's network", hint=_ways(None))
        return None

    @asynccontextmanager
    async def attach(self, request: AttachRequest) -> AsyncGenerator[Attachment]:
        """Give the VM a card on each interface.

        Raises InterfaceMissing, InterfaceUnfit, BridgingRefused, BridgingFailed, HelperRefused, BackendUnusable,
        MacTaken, ToolFailed.
        """
        keep = request.keep if request.keep and request.keep.backend == self.name else None
        with ExitStack() as held:
            ours = list[BridgedLink]()
            for index, name in enumerate(request.interfaces):
                link = await self._linked(name, card_mac(request.mac, index).lower())
                ours.append(held.enter_context(closing(link)))
            record = NetworkRecord(
                backend=self.name, address=keep.address if keep else None, interfaces=request.interfaces
            )
            yield Attachment(
                cables=tuple(_cable(link) for link in ours),
                record=record,
                lost=nothing_is_lost,
                later=partial(_as_heard, ours[0], record),
            )

    async def _linked(self, name: str, mac: str) -> BridgedLink:
        """By our own rights, else those of the privileged process, else those of QEMU's program."""
        interface = await anyio.to_thread.run_sync(interfaces.find, name)
        if _may_change_network():
            return await anyio.to_thread.run_sync(_by_own_rights, interface, mac)
        helper = _helper() if interface.kind is InterfaceKind.BRIDGE else None
        if self._service.lacking() is None:
            try:
                return await bridged_by(replace(self._service.keeper(), backend=self.name), interface.name, mac)
            except BackendUnusable as refusal:
                if helper is None:
                    raise
                log.debug("%s", refusal, exc_info=refusal)
        if helper is None:
            raise BridgingRefused(interface)
        cable = await anyio.to_thread.run_sync(bridge_helper.port_of, helper, interface.name)
        return BridgedLink(cable=cable, name="", mtu=interface.mtu)


async def _as_heard(link: BridgedLink, record: NetworkRecord) -> AsyncGenerator[NetworkRecord]:
    if link.ear:
        addresses = ear.heard(link.ear)
    elif link.hearsay is not None:
        addresses = ear.relayed(link.hearsay)
    else:
        return
    async for address in addresses:
        yield replace(record, address=str(address))


def _cable(link: BridgedLink) -> Cable:
    return Cable(
        netdev=links.netdev(link.cable),
        descriptors=link.descriptors,
        mtu=link.mtu if link.mtu < _ETHERNET else None,
    )


def _by_own_rights(interface: HostInterface, mac: str) -> BridgedLink:
    try:
        return bridged_links.linked(interface, mac)
    except PermissionError as exc:  # the rights are not on this network, as in a container
        raise BridgingRefused(interface) from exc
    except OSError as exc:
        raise BridgingFailed(interface, exc) from exc


def _may_change_network() -> bool:
    told = _OWN_STATUS.read_text()
    effective = next(line.split()[1] for line in told.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> _NET_ADMIN & 1)


def _helper() -> Path | None:
    program = bridge_helper.find()
    return program if program and bridge_helper.has_rights(program) else None


def _ways(interface: HostInterface | None) -> str:
    """What gives the right, in a line."""
    program = bridge_helper.find() or bridge_helper.NAME
    service = "sudo tart network setup, then sudo tart network set --system bridged.allow BRIDGE"
    helper = f"sudo setcap cap_net_admin+ep {program}, and 'allow BRIDGE' in {bridge_helper.LIST}"
    bridge = f"make a bridge of {interface.name}" if interface and interface.kind is InterfaceKind.CARD else "a bridge"
    return f"run as root, or let users have ports of {bridge}: {service}; or {helper}"
