"""A host with a bridge and a network card on one local network, whose DHCP server is another machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from namespaces import Namespace, namespace
from network_lab import done
from vm_lab import until

BRIDGE, CARD = "br0", "nic0"
ROUTER, HOST = "192.0.2.1", "192.0.2.2"
"""Of the local network; the host has its address on the bridge."""

POOL = "192.0.2.100,192.0.2.150"
BRIDGE_MAC, MTU = "aa:00:00:00:00:01", 1400


@dataclass(frozen=True, kw_only=True)
class Lan:
    """The two machines."""

    host: Namespace
    outside: Namespace

    def links(self) -> list[str]:
        """The names of the host's interfaces."""
        return [line.split("@")[0].split()[0] for line in self.host.run("ip", "-brief", "link").stdout.splitlines()]

    def taps(self) -> list[str]:
        """Those of bridged VMs."""
        return [name for name in self.links() if name.startswith("tartb")]


@contextmanager
def local_network(folder: Path) -> Generator[Lan]:
    """The lab for the length of the block. `folder` is for the DHCP server's files."""
    if shutil.which("dnsmasq", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        pytest.skip("needs dnsmasq")
    with namespace() as outside, namespace() as host:
        lan = Lan(host=host, outside=outside)
        done(
            outside,
            f"ip link add lan0 type bridge forward_delay 0; ip link set lan0 up; ip addr add {ROUTER}/24 dev lan0",
        )
        done(host, f"ip link add {BRIDGE} type bridge forward_delay 0; ip addr add {HOST}/24 dev {BRIDGE}")
        for card in ("port0", CARD):
            done(host, f"ip link add {card} type veth peer name {card} netns {outside.holder}")
            done(host, f"ip link set {card} mtu {MTU} up")
            done(outside, f"ip link set {card} master lan0 mtu {MTU} up")
        done(host, f"ip link set port0 address {BRIDGE_MAC} master {BRIDGE}; ip link set {BRIDGE} up")
        with _dhcp_server(outside, folder):
            yield lan


@contextmanager
def _dhcp_server(inside: Namespace, folder: Path) -> Generator[None]:
    leases = folder / "leases"
    words = [
        "dnsmasq", "--conf-file=/dev/null", "--keep-in-foreground", "--user=root", "--port=0", "--interface=lan0",
        "--bind-interfaces", "--no-ping", f"--dhcp-range={POOL},1h", f"--dhcp-leasefile={leases}", "--pid-file=",
    ]  # fmt: skip
    with subprocess.Popen(inside.words(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until(leases.exists, "the DHCP server")
            yield
        finally:
            server.kill()
