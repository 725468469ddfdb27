"""The small network between a user-mode backend and its guest: chosen so that it hides nothing the host can reach."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

ROUTES = Path("/proc/net/route")
_WISHES = (IPv4Network("10.0.2.0/24"), *(IPv4Network(f"10.64.{number}.0/24") for number in range(2, 256)))


@dataclass(frozen=True, slots=True)
class Subnet:
    """A /24 in which each VM is alone with its gateway."""

    network: IPv4Network

    @property
    def gateway(self) -> IPv4Address:
        return self.network[2]

    @property
    def name_server(self) -> IPv4Address:
        """Where slirp answers DNS; with passt the guest asks the host's own servers."""
        return self.network[3]

    @property
    def guest(self) -> IPv4Address:
        return self.network[15]


def choose(routes: Collection[IPv4Network], keep: str | None = None) -> Subnet:
    """A subnet that overlaps none of the host's routes; the one with the guest address `keep`, if that is given.

    A guest that is resumed cannot be told a new address, so `keep` is not checked against the routes.
    """
    if keep is not None:
        return Subnet(IPv4Network(f"{keep}/24", strict=False))
    for wish in _WISHES:
        if not any(wish.overlaps(route) for route in routes):
            return Subnet(wish)
    return Subnet(_WISHES[0])  # all of 10.64.0.0/16 is routed somewhere: the guest will miss 254 machines of it


def free_of(wishes: Sequence[IPv4Network], taken: Collection[IPv4Network]) -> IPv4Network:
    """The first wish that overlaps nothing that is taken; the first of all when each one does."""
    return next((wish for wish in wishes if not any(wish.overlaps(other) for other in taken)), wishes[0])


def host_routes(table: Path = ROUTES) -> list[IPv4Network]:
    """The host's routes except the default ones (proc(5), /proc/net/route); none where there is no such file."""
    try:
        rows = table.read_text().splitlines()[1:]
    except FileNotFoundError:
        return []
    routes = (_route(row.split()) for row in rows if row.strip())
    return [route for route in routes if route.prefixlen]


def has_default_route(table: Path = ROUTES) -> bool:
    """Whether the host has somewhere to send packets to."""
    try:
        rows = table.read_text().splitlines()[1:]
    except FileNotFoundError:
        return True
    return any(_route(row.split()).prefixlen == 0 for row in rows if row.strip())


def _route(columns: list[str]) -> IPv4Network:
    destination, mask = (IPv4Address(bytes.fromhex(columns[index])[::-1]) for index in (1, 7))
    return IPv4Network(f"{destination}/{mask}")
