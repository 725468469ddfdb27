"""The network of one user's VMs in a namespace of its own: a bridge for VMs with a way out, one for those without."""

from __future__ import annotations

import itertools
import socket
import time
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from tartlet.network.attachment import NetworkMode
from tartlet.network.namespace import pasta
from tartlet.network.preferences import Preferences
from tartlet.network.rules.guard import TAP_PREFIX
from tartlet.network.shared import links, resolvers, subnet
from tartlet.network.shared.bridges import Bridges, Start
from tartlet.network.shared.fabric import Fabric, Plugged
from tartlet.network.shared.helpers import Helper, HelperDead
from tartlet.network.shared.inside import SHELTER, Inside, cover

_UPLINK_SECONDS = 3.0
_SYSTEM = (("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/disable_ipv6", "1"))
_BRIDGED_AS_ROUTED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
"""Whether frames between guests meet the rules for routed packets too, as they do where br_netfilter is loaded."""

_ROUTES = Path("/proc/thread-self/net/route")


class PrivateNetwork:
    """Made once by the process that holds the network, from its main thread."""

    def __init__(self, preferences: Preferences) -> None:
        """Raises NetworkTaken, OSError, PermissionError, ToolFailed, ToolMissing."""
        cover(SHELTER)
        outside = subnet.host_routes()
        self._inside = Inside()
        self._inside.do(_prepare)
        self._numbers = itertools.count()
        self._name_server = resolvers.first()
        self._uplink: Helper | None = None
        self._bridges = Bridges(
            preferences, outside=outside, folder=SHELTER, upstream=(pasta.GATEWAY,), within=self._within
        )
        self._inside.do(self._bridges.routed)
        for helper in self.helpers:
            helper.begin()

    @property
    def helpers(self) -> list[Helper]:
        """In the order in which they were wanted; the holder keeps them running."""
        return self._bridges.helpers

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
                raise HelperDead("pasta", "it sets up no interface")
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
                raise HelperDead(helper.name, helper.last_words())

    def plug(
        self, vm: str, mac: str, mode: NetworkMode, wish: IPv4Address | None, *, isolated: bool
    ) -> tuple[Fabric, Plugged]:
        """A place for a VM. Raises NoAddressLeft, MacTaken, ToolFailed, ToolMissing, OSError."""
        # No name comes twice: the rules of a killed VM may outlive its tap for a moment.
        tap = self._inside.do(links.open_tap, f"{TAP_PREFIX}{next(self._numbers)}")
        return self._inside.do(self._bridges.plug, vm, mac, mode, wish, tap=tap, isolated=isolated)

    def isolate(self, plugged: Plugged, isolated: bool) -> None:
        """Whether the VM exchanges nothing with other isolated ones. Raises ToolFailed, ToolMissing."""
        self._inside.do(links.set_isolated, plugged.tap.name, isolated)

    def unplug(self, fabric: Fabric, plugged: Plugged) -> None:
        """The VM has ended."""
        self._inside.do(fabric.unplug, plugged)

    def described(self) -> list[dict[str, Any]]:
        """Each bridge with its network and the VMs in it, for `tart network status`."""
        return self._bridges.described()

    @property
    def namespace(self) -> int:
        """A descriptor that stands for the network namespace."""
        return self._inside.descriptor

    def new_socket(self, kind: socket.SocketKind) -> socket.socket:
        """A TCP or UDP socket that connects inside, whoever uses it."""
        return self._inside.do(socket.socket, socket.AF_INET, kind)

    def _within(self, start: Start) -> Start:
        return lambda says: self._inside.do(start, says)


def _prepare() -> None:
    """The namespace's own loopback and settings."""
    links.batch("ip", "link set lo up")
    for setting, value in _SYSTEM:
        Path("/proc/sys", setting).write_text(value)
    if _BRIDGED_AS_ROUTED.exists():
        _BRIDGED_AS_ROUTED.write_text("0")  # else guests that may meet could exchange ARP and nothing more
