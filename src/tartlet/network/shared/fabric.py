"""One bridge with all that serves it: addresses, DHCP, names, the way out. Runs in the namespace it is made in."""

from __future__ import annotations

import logging
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from tartlet.errors import ToolFailed, ToolMissing
from tartlet.network.rules.guard import TAP_PREFIX, base_table
from tartlet.network.shared import conntrack, links
from tartlet.network.shared.addresses import AddressBook
from tartlet.network.shared.dnsmasq import Dnsmasq, Reservation, Served
from tartlet.network.shared.links import Tap

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugged:
    """A VM's place in the network."""

    vm: str
    mac: str
    address: IPv4Address
    tap: Tap
    """Its descriptor is to be handed on and then closed here: the tap is the VM's, and gone with it."""


class Fabric:
    """A network that stands as long as its object is used; its parts end with the thread that made it."""

    def __init__(self, served: Served) -> None:
        """Raises ToolFailed, ToolMissing, OSError."""
        self.served = served
        self.addresses = AddressBook(served.network)
        self._reserved: dict[IPv4Address, Reservation] = {}
        self.number = links.make_bridge(served.bridge, IPv4Interface((served.gateway, served.network.prefixlen)))
        """The bridge's own among all interfaces of the namespace, never given twice."""
        apply(base_rules(served))
        self.server = Dnsmasq(served)

    def plug(self, vm: str, mac: str, *, tap: Tap, wish: IPv4Address | None, isolated: bool, lease: int) -> Plugged:
        """Reserve an address and make the tap a port, whose guest is mute until the VM's own rules are there.

        `isolated`: it exchanges nothing with other isolated guests. `lease`: seconds after which the guest asks again.
        Raises NoAddressLeft, MacTaken, ToolFailed, ToolMissing, OSError.
        """
        allotted = self.addresses.take(mac, wish)
        plugged = Plugged(vm=vm, mac=mac, address=allotted.address, tap=tap)
        try:
            links.plug_in(tap.name, self.served.bridge, mac, isolated=isolated)
            if allotted.former:
                self.server.forget(allotted.former, allotted.address)
            self._reserved[allotted.address] = Reservation(mac=mac, address=allotted.address, name=vm, seconds=lease)
            self.server.reserve(self._reserved.values())
        except BaseException:
            self.unplug(plugged)
            raise
        return plugged

    def unplug(self, plugged: Plugged) -> None:
        """The VM has ended, and its tap with it. Its connections are forgotten before another VM gets the address."""
        try:
            conntrack.forget(plugged.address)
        except OSError as exc:  # a kernel without this: the connections end by themselves, after some time
            log.debug("connections of %s are not forgotten: %s", plugged.address, exc)
        self._reserved.pop(plugged.address, None)
        self.addresses.give_back(plugged.address)

    def described(self) -> dict[str, Any]:
        """The network and its VMs in words that JSON knows."""
        served = self.served
        vms = [{"name": one.name, "mac": one.mac, "address": str(one.address)} for one in self._reserved.values()]
        return {
            "network": str(served.network),
            "gateway": str(served.gateway),
            "capacity": self.addresses.capacity,
            "host_only": not served.routed,
            "vms": sorted(vms, key=lambda vm: vm["name"]),
        }

    def restore_rules(self) -> None:
        """Put back what another program cleared of the rules for all guests. Raises ToolFailed, ToolMissing."""
        bridge = self.served.bridge
        present = _nft("list", "tables").splitlines()
        if any(f"table {table}" not in present for table in _tables(bridge)):
            log.warning("another program cleared the rules of %s: they are put back", bridge)
            apply(f"{base_removal(bridge)}\n{base_rules(self.served)}")


def base_rules(served: Served) -> str:
    """What holds for every guest of the bridge, in tables that belong to no process: they stand while guests live.

    What `base_table` leaves open and is closed here: the way from one guest to another by their router. That is seen
    where frames leave the bridge for the host: the rules for routed packets meet those from port to port too, where
    br_netfilter is loaded.
    """
    text = base_table(served.bridge, served.network, host_only=not served.routed, hides_clients=served.hides_clients)
    own = f"{served.gateway}, {served.network.broadcast_address}"
    return f"""{text}
table bridge tart_{served.bridge} {{
    chain apart {{
        type filter hook input priority filter; policy accept;
        iifname "{TAP_PREFIX}*" ip daddr {served.network} ip daddr != {{ {own} }} drop
    }}
}}"""


def base_removal(bridge: str) -> str:
    """Takes away the tables of `base_rules`, where they are."""
    return "\n".join(f"add table {table}\ndelete table {table}" for table in _tables(bridge))


def _tables(bridge: str) -> tuple[str, ...]:
    return f"inet tart_{bridge}", f"bridge tart_{bridge}"


def apply(rules: str) -> None:
    """Have the packet filter of this namespace take rules, all or none. Raises ToolFailed, ToolMissing."""
    _nft("-f", "-", given=rules)


def _nft(*options: str, given: str = "") -> str:
    words = ["nft", *options]
    try:
        done = subprocess.run(words, input=given.encode(), capture_output=True, check=False, timeout=10)
    except FileNotFoundError as exc:
        raise ToolMissing("nft", "install it: apt install nftables") from exc
    if done.returncode:
        raise ToolFailed(words, done.returncode, done.stderr.decode(errors="replace"))
    return done.stdout.decode(errors="replace")
