"""The host's interfaces that a VM can be bridged to: bridges, and network cards that are on an Ethernet network."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import anyio.to_thread

from tartlet.errors import InvalidArgument
from tartlet.host.process import run_now
from tartlet.network.shared.links import OUR_MACS

_CARDS = {None, "bond", "team", "vlan", "veth", "macvlan"}
"""Kinds of links (ip-link(8)) that lead to an Ethernet network. Hardware has no kind."""

_SYSTEM = Path("/sys/class/net")
_PATIENCE = 5.0


class InterfaceKind(StrEnum):
    """How a VM is put on its network."""

    BRIDGE = "bridge"
    """The VM becomes a port of it."""
    CARD = "card"
    """The VM gets an interface of its own on top of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInterface:
    """An interface that a VM can be bridged to."""

    name: str
    kind: InterfaceKind
    mtu: int
    """Bytes of the longest packet on its network."""


class InterfaceMissing(InvalidArgument):
    """The host has no interface of that name."""

    def __init__(self, name: str, usable: Iterable[str]) -> None:
        super().__init__(f'this host has no network interface "{name}"', _choice(usable))
        self.name = name


class InterfaceUnfit(InvalidArgument):
    """An interface that no VM can be bridged to."""

    def __init__(self, name: str, reason: str, hint: str) -> None:
        super().__init__(f"a VM cannot be bridged to {name}: {reason}", hint)
        self.name = name


async def bridged_interfaces() -> tuple[HostInterface, ...]:
    """What `--net-bridged` can name now, bridges first. Raises ToolMissing, ToolFailed."""
    return await anyio.to_thread.run_sync(usable)


def usable() -> tuple[HostInterface, ...]:
    """The same for code that has no event loop."""
    return _usable(_links(), _SYSTEM)


def find(name: str) -> HostInterface:
    """The interface of that name, alternative name or description (`ip link set DEVICE alias TEXT`).

    Raises InterfaceMissing, InterfaceUnfit, ToolMissing, ToolFailed.
    """
    return found_in(_links(), name)


def found_in(links: list[dict[str, Any]], name: str, system: Path = _SYSTEM) -> HostInterface:
    """`find` among links as `ip -details -json link` tells them; `system` is `/sys/class/net`."""
    link = next((link for link in links if name in _names(link)), None)
    if link is None:
        raise InterfaceMissing(name, [one.name for one in _usable(links, system)])
    if obstacle := _obstacle(link, system):
        reason, hint = obstacle
        raise InterfaceUnfit(str(link["ifname"]), reason, hint or _choice(one.name for one in _usable(links, system)))
    return _interface(link)


def _links() -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(run_now("ip", "-details", "-json", "link", timeout=_PATIENCE))
    return told


def _usable(links: list[dict[str, Any]], system: Path) -> tuple[HostInterface, ...]:
    fit = [_interface(link) for link in links if not _obstacle(link, system)]
    return tuple(sorted(fit, key=lambda one: (one.kind is not InterfaceKind.BRIDGE, one.name)))


def _interface(link: dict[str, Any]) -> HostInterface:
    kind = InterfaceKind.BRIDGE if _kind(link) == "bridge" else InterfaceKind.CARD
    return HostInterface(name=str(link["ifname"]), kind=kind, mtu=int(link["mtu"]))


def _names(link: dict[str, Any]) -> set[str]:
    return {link["ifname"], *link.get("altnames", ()), link.get("ifalias", link["ifname"])}


def _kind(link: dict[str, Any]) -> str | None:
    kind: str | None = link.get("linkinfo", {}).get("info_kind")
    return kind


def _obstacle(link: dict[str, Any], system: Path) -> tuple[str, str | None] | None:
    """Why no VM can be bridged to it, and what helps; None when one can."""
    name, kind, master = str(link["ifname"]), _kind(link), link.get("master")
    if link.get("link_type") != "ether":
        return "it leads to no Ethernet network", None
    if kind not in {*_CARDS, "bridge"}:
        return f"it is of the kind {kind}, and neither a bridge nor a network card", None
    if str(link.get("address", "")).startswith(OUR_MACS):
        return "it is the network that VMs share", "leave the option out"
    if master:
        return f"it is a part of {master}", f"use --net-bridged={master}"
    if any((system / name / sign).exists() for sign in ("phy80211", "wireless")):
        reason = "it is a Wi-Fi card, and access points take packets of one MAC address from each"
        return reason, "use a cable, or leave the option out: the default network works over Wi-Fi too"
    if "UP" not in link["flags"]:
        return "it is down", f"sudo ip link set {name} up"
    return None


def _choice(names: Iterable[str]) -> str:
    known = ", ".join(names)
    return f"there are {known}" if known else "this host has no interface that a VM can be bridged to"
