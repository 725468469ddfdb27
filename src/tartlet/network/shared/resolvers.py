"""The name servers a guest is told to ask: those of the host that a guest can reach."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

_CONFIGURED = Path("/etc/resolv.conf")
_BEHIND_SYSTEMD = Path("/run/systemd/resolve/resolv.conf")
"""The servers that systemd-resolved asks, where `/etc/resolv.conf` names only its own 127.0.0.53."""


def reachable_from_guest(files: tuple[Path, ...] = (_CONFIGURED, _BEHIND_SYSTEMD)) -> list[IPv4Address]:
    """At most three servers outside the host's loopback, of the first file that has any (resolv.conf(5))."""
    for file in files:
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        if found := [server for line in lines if (server := _server(line))]:
            return found[:3]
    return []


def first(file: Path = _CONFIGURED) -> str | None:
    """The host's first name server, wherever it listens; None without one."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((words[1] for line in lines if (words := line.split()[:2])[:1] == ["nameserver"] and words[1:]), None)


def _server(line: str) -> IPv4Address | None:
    words = line.split()
    if len(words) < 2 or words[0] != "nameserver":
        return None
    try:
        address = IPv4Address(words[1])
    except AddressValueError:
        return None
    return None if address.is_loopback or address.is_unspecified else address
