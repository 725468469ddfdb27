"""Addresses of machines that this host has talked to: the kernel's neighbour table (`ip neighbour`, arp(7))."""

from __future__ import annotations

import json
import shutil
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from tartlet.host.process import run_now
from tartlet.network.lookup.leases import mac_bytes

ARP_TABLE = Path("/proc/net/arp")
_KNOWN = {"REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT"}
"""States in which the table's MAC address was true once; not FAILED, INCOMPLETE, NOARP."""

_COMPLETE = 0x2
"""`ATF_COM` of linux/if_arp.h."""


def address_of(mac: str) -> IPv4Address | None:
    """The IPv4 address this host knows for `mac`; None before the two have exchanged traffic.

    Raises ToolFailed, subprocess.TimeoutExpired (`ip` did not answer).
    """
    wanted = mac_bytes(mac)
    if wanted is None:
        return None
    if shutil.which("ip"):
        return in_ip_neighbours(run_now("ip", "-j", "-4", "neighbour", "show", timeout=5), wanted)
    return in_arp_table(ARP_TABLE.read_text(), wanted) if ARP_TABLE.exists() else None


def in_ip_neighbours(told: str, mac: bytes) -> IPv4Address | None:
    """The first match in what `ip -j -4 neighbour` prints."""
    rows: Any = json.loads(told or "[]")
    for row in rows:
        if mac_bytes(str(row.get("lladdr", ""))) == mac and _KNOWN & set(row.get("state", ())):
            return IPv4Address(str(row["dst"]))
    return None


def in_arp_table(table: str, mac: bytes) -> IPv4Address | None:
    """The first match in the text of /proc/net/arp (proc(5)): address, type, flags, MAC, mask, device."""
    for row in table.splitlines()[1:]:
        columns = row.split()
        if len(columns) >= 4 and mac_bytes(columns[3]) == mac and int(columns[2], 16) & _COMPLETE:
            return IPv4Address(columns[0])
    return None
