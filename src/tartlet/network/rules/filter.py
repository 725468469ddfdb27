"""One VM's filter in the kernel: put into force, replaced while packets flow, asked what it refused."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Protocol

import anyio

from tartlet.network.attachment import NetworkLost
from tartlet.network.filter_state import FilterState
from tartlet.network.policy.dns_answers import Found
from tartlet.network.policy.policy import Policy
from tartlet.network.policy.targets import Ports, Way
from tartlet.network.rules.judging import InForce, judging_table, names_input, policy_steps
from tartlet.network.rules.nft import Rules
from tartlet.network.rules.plug import Plug
from tartlet.network.rules.ruleset import removal, table_for

SLACK = 30
"""Seconds that an address of a name stays open for longer than its name server says: guests keep answers too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A destination that the VM's packets did not reach."""

    destination: IPv4Address
    protocol: str
    """`tcp`, `udp`, `icmp`, or the number of another one."""
    port: int | None
    """Of TCP and UDP."""
    packets: int
    """Since the kernel first saw one; it forgets a destination a day after the last."""
    rule: str
    """Which rule refuses them, as far as the policy that is in force now tells."""


class VmFilter(Protocol):
    """The filter of one VM, wherever it is held: by this process, or by one with rights on the host."""

    @property
    def plug(self) -> Plug:
        """Where it stands."""
        ...

    @property
    def policy(self) -> Policy | None:
        """What is in force."""
        ...

    revision: str | None
    """What whoever sets the policy over the control channel calls it."""

    async def replace(self, policy: Policy) -> None:
        """Put another policy into force, between one packet and the next. Raises UserError."""
        ...

    async def refused(self) -> list[Refused]:
        """The destinations that the policy has refused. Raises UserError."""
        ...

    async def hits(self) -> dict[str, int]:
        """How many frames were dropped, by reason. Raises UserError."""
        ...


async def state_of(filter_: VmFilter) -> FilterState:
    """What a filter does; asks the kernel, some milliseconds. Raises RulesRefused, NetworkLost."""
    policy = filter_.policy
    return FilterState(
        allow=None if policy is None else tuple(str(target) for target in policy.allow),
        block=None if policy is None else tuple(str(target) for target in policy.block),
        revision=filter_.revision,
        dropped=await filter_.hits(),
    )


class Filter:
    """The filter of one VM. Its policy can be replaced any number of times."""

    def __init__(self, rules: Rules, plug: Plug, in_force: InForce) -> None:
        self._plug = plug
        self.revision: str | None = None
        """What whoever replaces the policy calls the one in force."""
        self._rules, self._in_force = rules, in_force
        self._turn = anyio.Lock()
        self._names: dict[tuple[str, IPv4Address], float] = {}
        """When an address of a name is to be forgotten, on the monotonic clock."""
        self._seen: tuple[str, int] = ("", 0)
        self._refused: list[Refused] = []

    @property
    def plug(self) -> Plug:
        """Where it stands."""
        return self._plug

    @property
    def policy(self) -> Policy | None:
        """What is in force."""
        return self._in_force.policy

    async def replace(self, policy: Policy | None) -> None:
        """Put another policy into force, between one packet and the next. Exposed ports stay as they are.

        Raises RulesRefused, and the former policy is in force still; NetworkLost.
        """
        async with self._turn:
            new = self._in_force.followed_by(policy)
            with anyio.CancelScope(shield=True):  # else nobody would know which of the two is in force
                *prepared, switch = policy_steps(self.plug, new, self._in_force)
                for step in filter(None, (*prepared, self._opened(new, self._names), switch)):
                    await self._rules.load(step)
                self._in_force = new

    async def learn(self, name: str, found: Iterable[Found]) -> None:
        """Open the way to the addresses that a name has, as far as the policy allows it: when this returns, it is open.

        Addresses that are not public stay closed. Raises RulesRefused, NetworkLost.
        """
        now = time.monotonic()
        async with self._turn:
            self._names = {key: end for key, end in self._names.items() if end > now}
            new = {
                (name, one.address): end
                for one in found
                if (end := now + one.seconds + SLACK) > self._names.get((name, one.address), 0) + SLACK / 2
            }
            if opened := self._opened(self._in_force, new):
                await self._rules.load(opened)
            self._names |= new

    def _opened(self, one: InForce, names: Mapping[tuple[str, IPv4Address], float]) -> str:
        if one.policy is None:
            return ""
        rules, now = one.policy.rules(Way.OUT, self.plug.gateway), time.monotonic()
        longest: dict[tuple[IPv4Address, Ports | None], int] = {}  # two names may share an address
        for (name, address), end in [*self._names.items(), *names.items()]:
            seconds = int(end - now)
            for target in rules.named(name, address) if seconds > 0 else ():
                key = (address, target.ports)
                longest[key] = max(seconds, longest.get(key, 0))
        wanted = {address for _, address in names}
        return names_input(self.plug, one, ((*key, seconds) for key, seconds in longest.items() if key[0] in wanted))

    async def refused(self) -> list[Refused]:
        """The destinations that this policy has refused, at most 1024 with ports and as many without.

        Cheap while nothing new is refused. Raises RulesRefused, NetworkLost.
        """
        async with self._turn:
            table, policy = judging_table(self.plug, self._in_force), self._in_force.policy
            seen = (table, (await self._counted(table, ("refuse",)))["refused_packets"])
            if policy is None or seen == self._seen:
                return self._refused
            found = [await self._rules.listed(f"list set {table} {name}") for name in ("refused", "refused_other")]
            rules = policy.rules(Way.OUT, self.plug.gateway)
            self._refused = [
                Refused(
                    destination=destination,
                    protocol=protocol,
                    port=port,
                    packets=packets,
                    rule=rules.decide(destination, port).rule,
                )
                for listed in found
                for destination, protocol, port, packets in _elements(listed)
            ]
            self._seen = seen
            return self._refused

    async def hits(self) -> dict[str, int]:
        """How many frames were dropped, by reason: `foreign_mac`, `false_arp`, `foreign_source`, `refused_packets`...

        Raises RulesRefused, NetworkLost.
        """
        return await self._counted(f"bridge {self.plug.table}", ("from_vm", "arp_vm", "ip_vm", "refuse"))

    async def _counted(self, table: str, chains: Iterable[str]) -> dict[str, int]:
        """The counters of rules, by comment. Named counters would do, but nft 1.0.6 reads all tables to show one."""
        counted: dict[str, int] = {}
        for chain in chains:
            for one in await self._rules.listed(f"list chain {table} {chain}"):
                for name, packets in _counters(one):
                    counted[name] = counted.get(name, 0) + packets
        return counted


def _counters(listed: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The comment and the counter of a rule that has both (libnftables-json(5), RULE)."""
    rule = listed.get("rule", {})
    if "comment" in rule:
        yield from ((rule["comment"], int(part["counter"]["packets"])) for part in rule["expr"] if "counter" in part)


def _elements(listed: list[dict[str, Any]]) -> Iterator[tuple[IPv4Address, str, int | None, int]]:
    """The members of a set of refused destinations (libnftables-json(5), SET, `elem`)."""
    for one in listed:
        for element in one.get("set", {}).get("elem", ()):
            address, protocol, *port = element["elem"]["val"]["concat"]
            packets = int(element["elem"]["counter"]["packets"])
            yield IPv4Address(address), str(protocol), int(port[0]) if port else None, packets


@asynccontextmanager
async def filtered(rules: Rules, plug: Plug, policy: Policy | None) -> AsyncGenerator[Filter]:
    """The filter of a VM for the length of the block; it stands when the block is entered.

    The tap need not exist yet. Raises RulesRefused, NetworkLost.
    """
    try:
        for step in table_for(plug, policy):
            await rules.load(step)
        yield Filter(rules, plug, InForce(policy=policy))
    finally:
        with anyio.CancelScope(shield=True), suppress(NetworkLost):  # lost: the tables went with their owner
            await rules.load(removal(plug))
