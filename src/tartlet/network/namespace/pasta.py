"""The way out of a network namespace by the program pasta: connections leave as the host's own, without privileges.

Nothing of the host goes in: not its addresses, not its loopback, no port; names are asked of the host's name server,
even if that listens on its loopback only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from ipaddress import IPv4Address, IPv4Interface

from tartlet.errors import ToolMissing
from tartlet.host.lifeline import tied

INTERFACE = "uplink"
ADDRESS = IPv4Interface("169.254.64.2/30")
"""Link-local, so that it hides no network of the host's (RFC 3927)."""

GATEWAY = IPv4Address("169.254.64.1")
"""Answers DNS too."""

HINT = "install it: apt install passt"
_MAC = "52:55:0a:00:02:02"
"""Instead of the MAC address of the host's interface."""


def words(program: str, namespace: int) -> list[str]:
    """pasta's words for the network namespace that the descriptor stands for (passt(1))."""
    return [
        program, "--foreground", "--quiet", "--ipv4-only", "--no-map-gw", "--config-net",
        "--netns", f"/proc/self/fd/{namespace}", "--netns-only", "--no-netns-quit",
        "--ns-ifname", INTERFACE, "--address", str(ADDRESS.ip), "--netmask", str(ADDRESS.network.prefixlen),
        "--gateway", str(GATEWAY), "--mac-addr", _MAC, "--dns-forward", str(GATEWAY),
        "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
        "--no-dhcp", "--no-ndp", "--no-dhcpv6", "--no-ra",
    ]  # fmt: skip


def started(namespace: int, says: int) -> subprocess.Popen[bytes]:
    """pasta between this thread's network and the namespace; ends with this thread. Raises ToolMissing.

    `says` takes what it complains of.
    """
    program = shutil.which("pasta")
    if program is None:
        raise ToolMissing("pasta", HINT)
    inherited = os.dup(namespace)
    try:
        return subprocess.Popen(
            tied(words(program, inherited)),
            pass_fds=[inherited],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=says,
        )  # fmt: skip
    finally:
        os.close(inherited)
