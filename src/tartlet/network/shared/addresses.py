"""Which address of a network each VM has. A VM that ends gives its address back: only VMs that run use addresses up."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from tartlet.errors import UserError


class NoAddressLeft(UserError):
    """Every address of the network belongs to a VM that runs."""

    def __init__(self, network: IPv4Network, running: int) -> None:
        super().__init__(f"no address left in {network}: {running} VMs run in it")
        self.hint = "stop a VM first"


class MacTaken(UserError):
    """Two VMs with the same MAC address cannot be in one network."""

    def __init__(self, mac: str, where: str = "of this network") -> None:
        super().__init__(f"another VM {where} runs with the MAC address {mac}")
        self.hint = "stop that VM, or give one of them a new one: tart set NAME --random-mac"
        self.mac = mac


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotted:
    """An address for one VM."""

    address: IPv4Address
    former: str | None
    """The MAC address that had it before, where that is another one: its DHCP lease has to go."""


@dataclass(slots=True)
class AddressBook:
    """The addresses of one network, without its gateway (the first) and its broadcast address."""

    network: IPv4Network
    _holders: dict[IPv4Address, str] = field(default_factory=dict[IPv4Address, str])
    """Address to MAC address, of VMs that run."""
    _former: dict[IPv4Address, str] = field(default_factory=dict[IPv4Address, str])
    """The same of those that ran before, the longest unused first."""

    @property
    def gateway(self) -> IPv4Address:
        return self.network[1]

    @property
    def capacity(self) -> int:
        """How many VMs can run at once."""
        return self.network.num_addresses - 3

    def take(self, mac: str, wish: IPv4Address | None = None) -> Allotted:
        """An address for a VM that starts: the wish, else the one it had, else a fresh one, else the longest unused.

        The wish is what a guest that is resumed believes to have. Raises NoAddressLeft, MacTaken.
        """
        if mac in self._holders.values():
            raise MacTaken(mac)
        chosen = self._chosen(mac, wish)
        former = self._former.pop(chosen, None)
        self._holders[chosen] = mac
        return Allotted(address=chosen, former=None if former == mac else former)

    def give_back(self, address: IPv4Address) -> None:
        """The VM that had it has ended."""
        self._former[address] = self._holders.pop(address)

    def _chosen(self, mac: str, wish: IPv4Address | None) -> IPv4Address:
        if wish is not None and self._is_free(wish):
            return wish
        for address, owner in self._former.items():
            if owner == mac:
                return address
        start = int.from_bytes(hashlib.sha256(mac.encode()).digest()[:4], "big")
        for step in range(self.capacity):
            address = self.network[2 + (start + step) % self.capacity]
            if address not in self._holders and address not in self._former:
                return address
        if self._former:
            return next(iter(self._former))
        raise NoAddressLeft(self.network, len(self._holders))

    def _is_free(self, address: IPv4Address) -> bool:
        outside = address not in self.network or address in (self.network[0], self.gateway, self.network[-1])
        return not outside and address not in self._holders
