"""One element of Softnet's lists: what it covers, read from its text and written back in one canonical form.

[in |out ]TARGET[:PORT[-PORT]]        TARGET is an IPv4 CIDR, @host (the network's gateway) or a domain name
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError

from tartlet.errors import InvalidArgument

HOST = "@host"
_ELEMENT = re.compile(r"(?:(?P<way>in|out) +)?(?P<target>[^\s:]*)(?::(?P<ports>[^\s:]*))?")
_CIDR = re.compile(r"(?P<address>[0-9.]+)/(?P<length>[0-9]{1,2})", re.ASCII)
_PORTS = re.compile(r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?", re.ASCII)
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_DOMAIN = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)+(?=[a-z0-9-]*[a-z]){_LABEL}")


class Way(StrEnum):
    """Which side's flows an element speaks of."""

    BOTH = ""
    """The VM's packets, as long as no element of the policy names a direction; flows of both sides otherwise."""
    IN = "in"
    """Flows that the target starts towards the VM."""
    OUT = "out"
    """Flows that the VM starts towards the target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """TCP and UDP ports, both ends included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an element covers. Neither a network nor a domain means the gateway."""

    network: IPv4Network | None = None
    domain: str | None = None
    """In lower case, without a dot at its end; `*.` before it means all names below it, and not the name itself."""
    ports: Ports | None = None
    """None covers every protocol; with ports only TCP and UDP to them are covered."""
    way: Way = Way.BOTH

    def __str__(self) -> str:
        place = str(self.network) if self.network else self.domain or HOST
        ports = f":{self.ports}" if self.ports else ""
        return f"{self.way} {place}{ports}".lstrip()


class BadElement(InvalidArgument):
    """An element of a list that cannot be understood."""

    def __init__(self, where: str, position: int, element: str, fault: str) -> None:
        super().__init__(
            f"{where}: element {position} ({element!r}) {fault}",
            "elements look like 10.0.0.0/8, @host, github.com, 10.0.0.0/8:443, 10.0.0.0/8:8000-8100 or `in 10.0.0.0/8`",
        )
        self.position, self.element, self.fault = position, element, fault


def targets(where: str, elements: list[str]) -> tuple[Target, ...]:
    """The elements of one list without doubles, in the order of their text. Raises BadElement.

    `where` names the list in errors: the option, or the member of a request.
    """
    parsed = (_target(where, position, element) for position, element in enumerate(elements, start=1))
    return tuple(sorted(set(parsed), key=str))


def _target(where: str, position: int, element: str) -> Target:
    try:
        return parsed(element)
    except ValueError as exc:
        raise BadElement(where, position, element, str(exc)) from exc


def parsed(element: str) -> Target:
    """The target that an element means; host bits of a network are masked off. Raises ValueError: what is wrong."""
    words = _ELEMENT.fullmatch(element.strip(" "))
    if words is None:
        raise ValueError("is no target: IPv6 and spaces are not possible" if element.strip() else "is empty")
    way, place = Way(words["way"] or ""), words["target"]
    ports = None if words["ports"] is None else _ports(words["ports"])
    if place == HOST:
        return Target(ports=ports, way=way)
    if "/" in place:
        return Target(network=_network(place), ports=ports, way=way)
    return Target(domain=_domain(place), ports=ports, way=way)


def _network(text: str) -> IPv4Network:
    parts = _CIDR.fullmatch(text)
    if parts is None:
        raise ValueError("is no IPv4 network with a prefix length from 0 to 32")
    try:
        return IPv4Network(text, strict=False)
    except (AddressValueError, NetmaskValueError) as exc:
        raise ValueError("is no IPv4 network with a prefix length from 0 to 32") from exc


def _domain(text: str) -> str:
    name = text.lower().removesuffix(".")
    if _DOMAIN.fullmatch(name) and len(name) <= 253:
        return name
    if re.fullmatch(r"[0-9.]+", text):
        raise ValueError(f"lacks its prefix length: {text}/32 is a single address")
    if text.startswith("@"):
        raise ValueError(f"is unknown: {HOST} is the only name of this kind")
    raise ValueError("is neither a network with a prefix length nor a domain name" if text else "is empty")


def _ports(text: str) -> Ports:
    parts = _PORTS.fullmatch(text)
    if parts is None:
        raise ValueError("has ports that are neither a number nor a range like 8000-8100")
    first = int(parts["first"])
    last = int(parts["last"] or first)
    if not 1 <= first <= last <= 65535:
        raise ValueError("has ports outside 1 to 65535 or in the wrong order")
    return Ports(first=first, last=last)
