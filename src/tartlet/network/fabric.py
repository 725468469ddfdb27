"""One bridge with all that serves it: addresses, DHCP, names, the way out. Runs in the namespace it is made in."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from tartlet.errors import ToolFailed, ToolMissing
from tartlet.network import links
from tartlet.network.addresses import AddressBook
from tartlet.network.dnsmasq import Dnsmasq, Reservation, Served
from tartlet.network.links import Tap
from tartlet.network.ruleset import base_table


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
        links.make_bridge(served.bridge, IPv4Interface((served.gateway, served.network.prefixlen)))
        apply(base_rules(served))
        self.server = Dnsmasq(served)

    def plug(self, vm: str, mac: str, *, tap: str, wish: IPv4Address | None, isolated: bool, lease: int) -> Plugged:
        """Reserve an address and open a tap, whose guest is mute until the VM's own rules are there.

        `isolated`: it exchanges nothing with other isolated guests. `lease`: seconds after which the guest asks again.
        Raises NoAddressLeft, MacTaken, ToolFailed, ToolMissing, OSError.
        """
        allotted = self.addresses.take(mac, wish)
        try:
            opened = links.open_tap(tap)
        except OSError:
            self.addresses.give_back(allotted.address)
            raise
        plugged = Plugged(vm=vm, mac=mac, address=allotted.address, tap=opened)
        try:
            links.plug_in(tap, self.served.bridge, mac, isolated=isolated)
            if allotted.former:
                self.server.forget(allotted.former, allotted.address)
            self._reserved[allotted.address] = Reservation(mac=mac, address=allotted.address, name=vm, seconds=lease)
            self.server.reserve(self._reserved.values())
        except BaseException:
            self.unplug(plugged)
            os.close(opened.descriptor)
            raise
        return plugged

    def unplug(self, plugged: Plugged) -> None:
        """The VM has ended, and its tap with it."""
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


def base_rules(served: Served) -> str:
    """What holds for every guest of the bridge, in tables that end with the namespace and with nothing before.

    `base_table` gives tables an owner, whose death would take the guard away while guests live; here they need none.
    What it leaves open and is closed here: the way from one guest to another by their router.
    """
    text = base_table(served.bridge, served.network, host_only=not served.routed).replace("flags owner;", "")
    return f"""{text}
table inet tart_{served.bridge}_apart {{
    chain between {{
        type filter hook forward priority filter; policy accept;
        iifname "{served.bridge}" oifname "{served.bridge}" drop
    }}
}}"""


def apply(rules: str) -> None:
    """Have the packet filter of this namespace take rules, all or none. Raises ToolFailed, ToolMissing."""
    words = ["nft", "-f", "-"]
    try:
        done = subprocess.run(words, input=rules.encode(), capture_output=True, check=False, timeout=10)
    except FileNotFoundError as exc:
        raise ToolMissing("nft", "install it: apt install nftables") from exc
    if done.returncode:
        raise ToolFailed(words, done.returncode, done.stderr.decode(errors="replace"))
