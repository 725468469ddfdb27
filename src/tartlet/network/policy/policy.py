"""Softnet's policy as data: what a VM may reach, who reaches it, and which rule decides about a packet.

The order of precedence, for packets and for flows alike: an element with ports before any without; then the longest
prefix; then block before allow. Where no element speaks, addresses of the public Internet and the gateway pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from tartlet.errors import InvalidArgument
from tartlet.network.attachment import AttachRequest, NetworkMode
from tartlet.network.policy.dns_answers import covers
from tartlet.network.policy.targets import Ports, Target, Way, targets

EVERYTHING = IPv4Network("0.0.0.0/0")
PRIVATE = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
    )
)  # fmt: skip
"""What is not the public Internet (IANA's registry of special-purpose addresses, except multicast and 6to4 relays)."""

PUBLIC_AFTER_ALL = (IPv4Network("192.0.0.9/32"), IPv4Network("192.0.0.10/32"))
NAME_SERVER = Target(ports=Ports(first=53, last=53))
"""The gateway's DNS."""

ALLOW_OPTION, BLOCK_OPTION, EXPOSE_OPTION = "--net-softnet-allow", "--net-softnet-block", "--net-softnet-expose"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A TCP port of the host that leads to a port of the VM."""

    port: int
    guest_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What happens to a packet, and why."""

    passes: bool
    rule: str
    """`allow 10.0.0.0/8`, `block @host`, or the default that spoke: `default: 192.168.0.0/16 is private`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of one VM. The lists hold no doubles and are sorted by their text."""

    allow: tuple[Target, ...] = ()
    block: tuple[Target, ...] = ()
    expose: tuple[Exposure, ...] = ()

    @classmethod
    def parse(cls, allow: str | None = None, block: str | None = None, expose: str | None = None) -> Policy:
        """The policy of `--net-softnet-allow`, `-block` and `-expose`, as they were typed; None: not given.

        Raises InvalidArgument, which names the element and its position.
        """
        policy = cls(expose=_exposures([] if expose is None else expose.split(",")))
        return policy.with_lists(_elements(allow), _elements(block), (ALLOW_OPTION, BLOCK_OPTION))

    def with_lists(
        self, allow: Sequence[str], block: Sequence[str], names: tuple[str, str] = ("allow", "block")
    ) -> Policy:
        """The same with other lists; `names` is what errors call them. Raises InvalidArgument."""
        blocked = targets(names[1], list(block))
        named = next((target for target in blocked if target.domain), None)
        if named is not None:
            raise InvalidArgument(
                f"{names[1]}: {named} is a domain name, which can only be allowed",
                "whoever wants to reach a blocked name takes its address: block networks, and allow names",
            )
        return replace(self, allow=targets(names[0], list(allow)), block=blocked)

    @property
    def isolated(self) -> bool:
        """Whether the VM is kept apart from its neighbours: unless exactly 0.0.0.0/0 is allowed.

        A policy with directions always keeps it apart: the kernel tracks flows through the host only.
        """
        return self.directional or Target(network=EVERYTHING) not in self.allow

    @property
    def directional(self) -> bool:
        """Whether an element names a direction: then flows are judged instead of single packets."""
        return any(target.way is not Way.BOTH for target in (*self.allow, *self.block))

    @property
    def domains(self) -> tuple[str, ...]:
        """The domain names that are allowed."""
        return tuple(sorted({target.domain for target in self.allow if target.domain}))

    def rules(self, way: Way, gateway: IPv4Address) -> Rules:
        """The elements that speak of flows which the VM (`Way.OUT`) or somebody else (`Way.IN`) starts.

        Allowing names allows asking the gateway for their addresses.
        """
        speaking = {Way.BOTH, way} if self.directional else {Way.BOTH}
        asking = (NAME_SERVER,) if self.domains and way is Way.OUT else ()
        return Rules(
            allow=(*asking, *(target for target in self.allow if target.way in speaking)),
            block=tuple(target for target in self.block if target.way in speaking),
            way=way,
            gateway=gateway,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The elements that decide about flows of one direction."""

    allow: tuple[Target, ...]
    block: tuple[Target, ...]
    way: Way
    gateway: IPv4Address

    def decide(
        self,
        address: IPv4Address,
        port: int | None = None,
        names: Mapping[str, Collection[IPv4Address]] | None = None,
    ) -> Decision:
        """What happens to a packet between the VM and `address`.

        `port` is the TCP or UDP port that the flow goes to, None for other protocols. `names` are the addresses that
        names have at the moment. This is the definition; the kernel's rules are compiled and tested against
        it.
        """
        matches = [
            (target.ports is not None, length, not passes, target)
            for target, passes in self._all()
            for length in self._covering(target, address, port, names or {})
        ]
        if not matches:
            return self._default(address)
        _, _, blocked, target = max(matches, key=lambda match: match[:3])
        return Decision(passes=not blocked, rule=f"{'block' if blocked else 'allow'} {target}")

    def named(self, name: str, address: IPv4Address) -> list[Target]:
        """The elements by which a name opens the way to an address that it has.

        None for an address that is not public: whoever answers for a name must not open a private network with it.
        And none that an element for just this address blocks.
        """
        if address == self.gateway or address.is_multicast or not self._default(address).passes:
            return []
        names = {name: [address]}
        return [
            target
            for target in self.allow
            if target.domain
            and covers(target.domain, name)
            and (target.ports or self.decide(address, names=names).passes)
        ]

    def networks(self, rules: Iterable[Target]) -> list[IPv4Network]:
        """The networks of those that name no ports; `@host` is the gateway's."""
        return [network for target in rules if not target.ports and (network := self.network(target))]

    def network(self, target: Target) -> IPv4Network | None:
        """What a target covers; None for a domain."""
        if target.domain:
            return None
        return target.network or IPv4Network(self.gateway)

    def defaults(self) -> list[tuple[IPv4Network, bool]]:
        """What applies where no element speaks, as networks and whether they pass; the longest prefix decides."""
        if self.way is Way.IN:
            return [(EVERYTHING, True)]
        passing = (EVERYTHING, *PUBLIC_AFTER_ALL, IPv4Network(self.gateway))
        return [*((network, True) for network in passing), *((network, False) for network in PRIVATE)]

    def _all(self) -> Iterable[tuple[Target, bool]]:
        yield from ((target, True) for target in self.allow)
        yield from ((target, False) for target in self.block)

    def _covering(
        self, target: Target, address: IPv4Address, port: int | None, names: Mapping[str, Collection[IPv4Address]]
    ) -> list[int]:
        """The prefix length with which a target covers the packet; nothing when it does not."""
        if target.ports and (port is None or not target.ports.first <= port <= target.ports.last):
            return []
        network = self.network(target)
        if network is None:
            return (
                [32]
                if any(address in found for name, found in names.items() if covers(target.domain or "", name))
                else []
            )
        return [network.prefixlen] if address in network else []

    def _default(self, address: IPv4Address) -> Decision:
        network, passes = max(
            ((network, passes) for network, passes in self.defaults() if address in network),
            key=lambda default: default[0].prefixlen,
        )
        return Decision(passes=passes, rule=f"default: {network} is {'open' if passes else 'private'}")


def policy_for(request: AttachRequest) -> Policy | None:
    """The policy of a VM: None lets everything pass. Raises InvalidArgument.

    A host-only VM has one too: its gateway also has the addresses of other networks, and serves DNS there.
    """
    match request.mode:
        case NetworkMode.SOFTNET:
            return Policy.parse(request.allow, request.block, request.expose)
        case NetworkMode.HOST:
            return Policy()
        case _:
            return None


def _elements(text: str | None) -> list[str]:
    return [] if text is None else text.split(",")


def _exposures(elements: list[str]) -> tuple[Exposure, ...]:
    found: dict[int, Exposure] = {}
    for position, element in enumerate(elements, start=1):
        ports = element.strip().split(":")
        if len(ports) != 2 or not all(_is_port(port) for port in ports):
            raise InvalidArgument(
                f"{EXPOSE_OPTION}: element {position} ({element!r}) is not a pair of ports",
                "write the host's port and the VM's: 2222:22",
            )
        port, guest_port = (int(port) for port in ports)
        if port in found:
            raise InvalidArgument(
                f"{EXPOSE_OPTION}: element {position} exposes port {port} once more", "name each port of the host once"
            )
        found[port] = Exposure(port=port, guest_port=guest_port)
    return tuple(found.values())


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535
