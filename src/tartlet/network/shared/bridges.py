"""The bridges of a network that VMs share: `tart0` for those with a way out, `tart1` for those without."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from tartlet.errors import UserError
from tartlet.network.attachment import NetworkMode
from tartlet.network.preferences import Preferences
from tartlet.network.shared import subnet
from tartlet.network.shared.dnsmasq import Served
from tartlet.network.shared.fabric import Fabric, Plugged
from tartlet.network.shared.helpers import Helper
from tartlet.network.shared.links import Tap

ROUTED, HOST_ONLY = "tart0", "tart1"
_ROUTED_WISHES = [
    *(IPv4Network(f"192.168.{number}.0/24") for number in range(64, 128)),
    *(IPv4Network(f"10.64.{number}.0/24") for number in range(256)),
]
_HOST_ONLY_WISHES = [IPv4Network(f"192.168.{number}.0/24") for number in range(128, 192)]


class NetworkTaken(UserError):
    """The network that was chosen is somebody else's."""

    def __init__(self, kind: str, wish: IPv4Network, other: IPv4Network) -> None:
        """`kind`: `nat` or `host`, as in the names of the settings."""
        super().__init__(f"the network {wish} of the settings overlaps {other}, which this host reaches already")
        self.hint = f"choose another one: tart network set {kind}.address 192.168.77.1"


Start = Callable[[int], subprocess.Popen[bytes]]
"""Starts a helper; it may write complaints to the descriptor."""


class Bridges:
    """Bridges in one network namespace, each made when the first VM wants it. All that is done runs in the namespace.

    Not for several threads at once.
    """

    def __init__(
        self,
        preferences: Preferences,
        *,
        outside: Sequence[IPv4Network],
        folder: Path,
        upstream: tuple[IPv4Address, ...] | Path,
        within: Callable[[Start], Start],
    ) -> None:
        """`outside` are networks that are not to be taken, `folder` is for the servers' files, names are asked for at
        `upstream` where the preferences name no servers, and `within` has a helper be started in the namespace."""
        self._preferences, self._outside = preferences, outside
        self._folder, self._within = folder, within
        self._upstream = upstream if preferences.name_servers is None else preferences.name_servers
        self.fabrics: dict[str, Fabric] = {}
        self.helpers: list[Helper] = []
        """What is to be kept running, in the order in which it was wanted. Whoever made this starts it."""

    def plug(
        self, vm: str, mac: str, mode: NetworkMode, wish: IPv4Address | None, *, tap: Tap, isolated: bool
    ) -> tuple[Fabric, Plugged]:
        """A place for a VM, whose tap is closed when there is none.

        Raises NetworkTaken, NoAddressLeft, MacTaken, ToolFailed, ToolMissing, OSError.
        """
        known = self._preferences
        lease = known.softnet_lease_seconds if mode is NetworkMode.SOFTNET else known.lease_seconds
        try:
            fabric = self.host_only() if mode is NetworkMode.HOST else self.routed()
            return fabric, fabric.plug(vm, mac, tap=tap, wish=wish, isolated=isolated, lease=lease)
        except BaseException:
            tap.close()
            raise

    def routed(self) -> Fabric:
        """The network with a way out. Raises NetworkTaken, ToolFailed, ToolMissing, OSError."""
        return self.fabrics.get(ROUTED) or self._made(ROUTED, self._preferences.nat, _ROUTED_WISHES)

    def host_only(self) -> Fabric:
        """The network without one. Raises NetworkTaken, ToolFailed, ToolMissing, OSError."""
        return self.fabrics.get(HOST_ONLY) or self._made(HOST_ONLY, self._preferences.host, _HOST_ONLY_WISHES)

    def described(self) -> list[dict[str, Any]]:
        """Each bridge with its network and the VMs in it, for `tart network status`."""
        return [fabric.described() for fabric in self.fabrics.values()]

    def _made(self, bridge: str, wish: IPv4Network | None, usual: Sequence[IPv4Network]) -> Fabric:
        routed = bridge == ROUTED
        network = self._free("nat" if routed else "host", wish, usual)
        served = Served(
            bridge=bridge,
            network=network,
            folder=self._folder,
            routed=routed,
            upstream=self._upstream if routed else (),
            hides_clients=self._preferences.hides_clients,
        )
        fabric = self.fabrics[bridge] = Fabric(served)
        self.helpers.append(Helper(f"dnsmasq ({bridge})", self._within(fabric.server.start)))
        return fabric

    def _free(self, kind: str, wish: IPv4Network | None, usual: Sequence[IPv4Network]) -> IPv4Network:
        """The network that the user chose, or the first of the usual ones that hides nothing the host reaches."""
        taken = [*self._outside, *(fabric.served.network for fabric in self.fabrics.values())]
        if wish is None:
            return subnet.free_of(usual, taken)
        if (other := next((other for other in taken if wish.overlaps(other)), None)) is not None:
            raise NetworkTaken(kind, wish, other)
        return wish
