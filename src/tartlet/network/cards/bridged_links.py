"""The host's end of a bridged card: a tap that is a port of a bridge, or a macvtap on a network card.

What needs rights on the host's network is here (CAP_NET_ADMIN; for the ear CAP_NET_RAW), and asks nobody for leave.

Nothing has to be removed after a death. A tap ends with its last descriptor. A macvtap does not, so it is made in a
network namespace without a name, which ends with its last descriptor and the macvtap with it.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tartlet.errors import ToolFailed
from tartlet.host.process import run_now
from tartlet.network.cards import ear, macvtap_node
from tartlet.network.cards.interfaces import HostInterface, InterfaceKind
from tartlet.network.shared import links
from tartlet.network.shared.addresses import MacTaken
from tartlet.network.shared.inside import Inside

_MACVTAP = "tart0"

_IPV6 = Path("/proc/sys/net/ipv6")
_PATIENCE = 10.0
_BUSY, _PAUSE = 2.0, 0.05
"""Seconds in which the kernel removes the macvtap of a VM that has just ended; it takes less than a tenth of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgedLink:
    """What the host has of one card. Descriptors are the owner's to close."""

    cable: int
    """The tap or macvtap, for QEMU."""
    name: str
    """Of the interface, where we made it; that of a macvtap is in its namespace."""
    mtu: int
    """Bytes of the longest packet on the network."""
    shelter: int | None = None
    """The namespace that a macvtap is in. QEMU holds it too, so that the link lasts as long as either."""
    lifeline: int | None = None
    """QEMU inherits it, and does nothing with it: whoever made the link for us takes it away when all copies closed."""
    ear: socket.socket | None = None
    """Hears which address the guest uses."""
    hearsay: int | None = None
    """A pipe by which another process tells that. With neither of the two nobody had the right to listen."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What QEMU inherits."""
        return tuple(number for number in (self.cable, self.shelter, self.lifeline) if number is not None)

    def close(self) -> None:
        """Give up this process's copies."""
        for descriptor in (*self.descriptors, *([] if self.hearsay is None else [self.hearsay])):
            os.close(descriptor)
        if self.ear:
            self.ear.close()


def linked(interface: HostInterface, mac: str) -> BridgedLink:
    """A new end for a card with this MAC address on the interface's network.

    Raises MacTaken, ToolFailed, ToolMissing, OSError.
    """
    return _port_of(interface, mac) if interface.kind is InterfaceKind.BRIDGE else _on_top_of(interface, mac)


def _port_of(bridge: HostInterface, mac: str) -> BridgedLink:
    """The tap's own address is high and its packets are as long as the bridge's: else the bridge would follow it."""
    tap = links.open_tap(f"{links.BRIDGED_TAP_PREFIX}%d")
    with ExitStack() as undo:
        undo.callback(os.close, tap.descriptor)
        _without_address(tap.name)
        run_now(
            "ip", "link", "set", "dev", tap.name, "address", f"fe{mac[2:]}", "mtu", str(bridge.mtu),
            "master", bridge.name, "up", timeout=_PATIENCE,
        )  # fmt: skip
        link = BridgedLink(cable=tap.descriptor, name=tap.name, mtu=bridge.mtu, ear=ear.opened(tap.name, mac))
        undo.pop_all()
        return link


def _on_top_of(card: HostInterface, mac: str) -> BridgedLink:
    with ExitStack() as always, ExitStack() as undo:
        inside = Inside()
        undo.callback(os.close, inside.descriptor)
        always.callback(inside.end)
        announced = always.enter_context(inside.do(macvtap_node.announcements))
        # Chosen among many, because it names the device node, and nodes are the same in all namespaces.
        number = 1 << 24 | secrets.randbits(24)
        run_now(
            "ip", "link", "add", "link", card.name, "index", str(number), "name", _MACVTAP, "address", mac,
            "netns", f"/proc/{os.getpid()}/fd/{inside.descriptor}", "type", "macvtap", "mode", "bridge",
            timeout=_PATIENCE,
        )  # fmt: skip
        cable = macvtap_node.opened(number, announced)
        undo.callback(os.close, cable)
        inside.do(_up, card.name, mac)
        heard = inside.do(ear.opened, _MACVTAP, mac)
        link = BridgedLink(cable=cable, name=_MACVTAP, mtu=card.mtu, shelter=inside.descriptor, ear=heard)
        undo.pop_all()
        return link


def remove_sheltered(shelter: int) -> None:
    """Take the macvtap in a namespace away, should it stand there. Raises ToolFailed, ToolMissing."""
    inside = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{shelter}", "--", "ip", "link")
    if f" {_MACVTAP}@" in run_now(*inside, timeout=_PATIENCE):
        run_now(*inside, "del", "dev", _MACVTAP, timeout=_PATIENCE)


def _up(card: str, mac: str) -> None:
    _without_address(_MACVTAP)
    deadline = time.monotonic() + _BUSY
    while True:
        try:
            return links.batch("ip", f"link set {_MACVTAP} up")
        except ToolFailed as exc:
            if "in use" not in exc.stderr:
                raise
            if time.monotonic() > deadline:
                raise MacTaken(mac, f"on {card}") from exc
        time.sleep(_PAUSE)


def _without_address(interface: str) -> None:
    """The host is no machine on this cable: it shall not give it an IPv6 address of its own and announce that."""
    if _IPV6.exists():
        links.batch("ip", f"link set {interface} addrgenmode none")
