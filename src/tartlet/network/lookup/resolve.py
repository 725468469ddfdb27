"""The address `tart ip` prints: one attempt, by the sources a VM's network has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path

from tartlet.network import record
from tartlet.network.lookup import leases, neighbours


class Resolver(StrEnum):
    """Where an address is looked up."""

    DHCP = "dhcp"
    """What our own DHCP or user-mode network gave, or a DHCP server's lease file says."""
    ARP = "arp"
    """What a bridged VM said in its own ARP packets, else the host's neighbour table."""
    AGENT = "agent"
    """The guest itself."""


AskAgent = Callable[[], Awaitable[IPv4Address | None]]
"""Asks the guest's agent for its address; None when it cannot be reached."""


async def address_of(
    folder: Path, mac: str, resolver: Resolver | None, *, running: bool, ask_agent: AskAgent | None = None
) -> IPv4Address | None:
    """Look the VM in `folder` up once; None when it is not known (yet).

    A resolver that is named is used alone. Without one they are tried in the order dhcp, arp, agent. `running` is
    whether the VM's lock is held: only then does its record count. Raises LeaseFileBroken, ToolFailed, and what
    `ask_agent` raises.
    """
    for source in [resolver] if resolver else list(Resolver):
        found = await _asked(source, folder, mac, running, ask_agent)
        if found:
            return found
    return None


async def _asked(
    source: Resolver, folder: Path, mac: str, running: bool, ask_agent: AskAgent | None
) -> IPv4Address | None:
    match source:
        case Resolver.DHCP:
            return (_recorded(folder) if running else None) or _leased(mac)
        case Resolver.ARP:
            return (_heard(folder) if running else None) or neighbours.address_of(mac)
        case Resolver.AGENT:
            return await ask_agent() if ask_agent else None


def _recorded(folder: Path) -> IPv4Address | None:
    known = record.read(folder)
    return IPv4Address(known.address) if known and known.address else None


def _heard(folder: Path) -> IPv4Address | None:
    known = record.read(folder)
    return IPv4Address(known.address) if known and known.address and known.interfaces else None


def _leased(mac: str) -> IPv4Address | None:
    """By the system's DHCP server, which only a Mac has; backends with a server of their own record what it gave."""
    try:
        text = leases.APPLE_FILE.read_text(errors="replace")
    except FileNotFoundError:
        return None
    return leases.address_of(mac, leases.apple(text))
