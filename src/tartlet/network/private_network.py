"""The network of one user's VMs in a namespace of its own: a bridge for VMs with a way out, one for those without."""

from __future__ import annotations

import itertools
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from tartlet.errors import UserError
from tartlet.network import links, pasta, resolvers, subnet
from tartlet.network.attachment import NetworkMode
from tartlet.network.dnsmasq import Served
from tartlet.network.fabric import Fabric, Plugged
from tartlet.network.helpers import Helper
from tartlet.network.inside import SHELTER, Inside, cover
from tartlet.network.preferences import Preferences
from tartlet.network.ruleset import TAP_PREFIX

_UPLINK_SECONDS = 3.0
_SYSTEM = (("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/disable_ipv6", "1"))
_BRIDGED_AS_ROUTED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
"""Whether frames between guests meet the rules for routed packets too, as they do where br_netfilter is loaded."""

_ROUTES = Path("/proc/thread-self/net/route")
_NAT_WISHES = [
    *(IPv4Network(f"192.168.{number}.0/24") for number in range(64, 128)),
    *(IPv4Network(f"10.64.{number}.0/24") for number in range(256)),
]
_HOST_ONLY_WISHES = [IPv4Network(f"192.168.{number}.0/24") for number in range(128, 192)]


class HelperDead(UserError):
    """A helper does not work here."""


class NetworkTaken(UserError):
    """The network that was chosen is somebody else's."""

    def __init__(self, wish: IPv4Network, other: IPv4Network) -> None:
        super().__init__(f"the network {wish} of the settings overlaps {other}, which this host reaches already")
        self.hint = "choose another one: tart network set nat.address 192.168.77.1"


class PrivateNetwork:
    """Made once by the process that holds the network, from its main thread."""

    def __init__(self, preferences: Preferences) -> None:
        """Raises NetworkTaken, OSError, PermissionError, ToolFailed, ToolMissing."""
        self._preferences = preferences
        cover(SHELTER)
        self._outside = subnet.host_routes()
        self._inside = Inside()
        self._inside.do(_prepare)
        self._numbers = itertools.count()
        self._name_server = resolvers.first()
        self._uplink: Helper | None = None
        self._fabrics: dict[str, Fabric] = {}
        self.helpers: list[Helper] = []
        """In the order in which they were wanted; the holder keeps them running."""
        self._routed = self._made("tart0", self._free(preferences.nat, _NAT_WISHES, []), routed=True)

    def way_out(self) -> None:
        """Have pasta started, and wait until it works. Without a default route that is left for later.

        Raises HelperDead, ToolMissing.
        """
        start = partial(pasta.started, self._inside.descriptor)
        helper = self._uplink = Helper("pasta", start, may_start=subnet.has_default_route)
        self.helpers.append(helper)
        if not helper.begin():
            return
        deadline = time.monotonic() + _UPLINK_SECONDS
        while not self._inside.do(subnet.has_default_route, _ROUTES):
            self.check_helpers()
            if time.monotonic() > deadline:
                raise HelperDead("pasta does not work here: it sets up no interface")
            time.sleep(0.002)

    def follow_the_host(self) -> None:
        """End pasta when the host asks another name server by now: it knows the one it began with. It starts again."""
        server = resolvers.first()
        if server != self._name_server and self._uplink is not None:
            self._uplink.renew()
        self._name_server = server

    def check_helpers(self) -> None:
        """Find those that could not even start. Raises HelperDead."""
        for helper in self.helpers:
            if helper.process is not None and helper.process.poll() is not None:
                raise HelperDead(f"{helper.name} does not work here: {helper.last_words() or 'it says nothing'}")

    def plug(
        self, vm: str, mac: str, mode: NetworkMode, wish: IPv4Address | None, *, isolated: bool
    ) -> tuple[Fabric, Plugged]:
        """A place for a VM. Raises NoAddressLeft, MacTaken, ToolFailed, ToolMissing, OSError."""
        fabric = self._host_only() if mode is NetworkMode.HOST else self._routed
        # No name comes twice: the rules of a killed VM may outlive its tap for a moment.
        tap = f"{TAP_PREFIX}{next(self._numbers)}"
        known = self._preferences
        lease = known.softnet_lease_seconds if mode is NetworkMode.SOFTNET else known.lease_seconds
        return fabric, self._inside.do(fabric.plug, vm, mac, tap=tap, wish=wish, isolated=isolated, lease=lease)

    def isolate(self, plugged: Plugged, isolated: bool) -> None:
        """Whether the VM exchanges nothing with other isolated ones. Raises ToolFailed, ToolMissing."""
        self._inside.do(links.set_isolated, plugged.tap.name, isolated)

    def unplug(self, fabric: Fabric, plugged: Plugged) -> None:
        """The VM has ended."""
        self._inside.do(fabric.unplug, plugged)

    def described(self) -> list[dict[str, Any]]:
        """Each bridge with its network and the VMs in it, for `tart network status`."""
        return [fabric.described() for fabric in self._fabrics.values()]

    @property
    def namespace(self) -> int:
        """A descriptor that stands for the network namespace."""
        return self._inside.descriptor

    def new_socket(self, kind: socket.SocketKind) -> socket.socket:
        """A TCP or UDP socket that connects inside, whoever uses it."""
        return self._inside.do(socket.socket, socket.AF_INET, kind)

    def _host_only(self) -> Fabric:
        if (made := self._fabrics.get("tart1")) is not None:
            return made
        network = self._free(self._preferences.host, _HOST_ONLY_WISHES, [self._routed.served.network])
        return self._made("tart1", network, routed=False)

    def _free(self, wish: IPv4Network | None, usual: Sequence[IPv4Network], besides: list[IPv4Network]) -> IPv4Network:
        """The network that the user chose, or the first of the usual ones that hides nothing the host reaches."""
        taken = [*self._outside, *besides]
        if wish is None:
            return subnet.free_of(usual, taken)
        if (other := next((other for other in taken if wish.overlaps(other)), None)) is not None:
            raise NetworkTaken(wish, other)
        return wish

    def _made(self, bridge: str, network: IPv4Network, *, routed: bool) -> Fabric:
        upstream = pasta.GATEWAY if routed else None
        served = Served(bridge=bridge, network=network, folder=SHELTER, routed=routed, upstream=upstream)
        fabric = self._fabrics[bridge] = self._inside.do(Fabric, served)
        helper = Helper(f"dnsmasq ({bridge})", self._within(fabric.server.start))
        helper.begin()
        self.helpers.append(helper)
        return fabric

    def _within(self, start: Callable[[int], subprocess.Popen[bytes]]) -> Callable[[int], subprocess.Popen[bytes]]:
        return lambda says: self._inside.do(start, says)


def _prepare() -> None:
    """The namespace's own loopback and settings."""
    links.batch("ip", "link set lo up")
    for setting, value in _SYSTEM:
        Path("/proc/sys", setting).write_text(value)
    if _BRIDGED_AS_ROUTED.exists():
        _BRIDGED_AS_ROUTED.write_text("0")  # else guests that may meet could exchange ARP and nothing more
