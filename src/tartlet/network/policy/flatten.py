"""Rules with longest-prefix precedence, flattened to what nftables can look up: ranges that do not overlap.

An interval set of nftables refuses overlapping prefixes, so it cannot find the longest match by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from tartlet.network.policy.policy import Rules
from tartlet.network.policy.targets import Ports, Target

_END = 2**32


@dataclass(frozen=True, slots=True)
class Range:
    """IPv4 addresses from `first` to `last`, as numbers, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        first, last = IPv4Address(self.first), IPv4Address(self.last)
        return str(first) if first == last else f"{first}-{last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLevel:
    """The elements with ports of one prefix length, blocking ones before allowing ones."""

    length: int
    blocked: tuple[tuple[IPv4Network, Ports], ...]
    allowed: tuple[tuple[IPv4Network, Ports], ...]


def open_ranges(rules: Rules) -> list[Range]:
    """All addresses that pass by the elements without ports and by the defaults: in order, apart from each other."""
    ranges: list[Range] = []
    for first, last, passes in _segments(_verdicts(rules)):
        if not passes:
            continue
        if ranges and ranges[-1].last == first - 1:
            ranges[-1] = Range(ranges[-1].first, last)
        else:
            ranges.append(Range(first, last))
    return ranges


def port_levels(rules: Rules) -> list[PortLevel]:
    """The elements with ports, the longest prefix first: the first level that speaks of a packet decides."""
    blocked, allowed = (_by_length(rules, targets) for targets in (rules.block, rules.allow))
    return [
        PortLevel(length=length, blocked=_joined(blocked.get(length, [])), allowed=_joined(allowed.get(length, [])))
        for length in sorted({*blocked, *allowed}, reverse=True)
    ]


@dataclass(frozen=True, slots=True)
class _Verdict:
    passes: bool
    by_user: bool


def _verdicts(rules: Rules) -> dict[IPv4Network, _Verdict]:
    verdicts = {network: _Verdict(passes, by_user=False) for network, passes in rules.defaults()}
    verdicts |= dict.fromkeys(rules.networks(rules.allow), _Verdict(passes=True, by_user=True))
    return verdicts | dict.fromkeys(rules.networks(rules.block), _Verdict(passes=False, by_user=True))


def _segments(verdicts: dict[IPv4Network, _Verdict]) -> Iterator[tuple[int, int, bool]]:
    """The address space cut at every boundary. Prefixes nest or are apart, so a stack of the open ones suffices."""
    standing: list[tuple[int, _Verdict]] = []
    position = 0
    for first, _, end, verdict in sorted(_bounds(verdicts), key=lambda bound: bound[:2]):
        while standing and standing[-1][0] <= first:
            yield from _piece(position, standing[-1][0], standing[-1][1])
            position = max(position, standing.pop()[0])
        if standing:
            yield from _piece(position, first, standing[-1][1])
        position = first
        # A default says nothing inside of what the user decided.
        kept = bool(standing) and standing[-1][1].by_user and not verdict.by_user
        standing.append((end, standing[-1][1] if kept else verdict))
    while standing:
        end, verdict = standing.pop()
        yield from _piece(position, end, verdict)
        position = max(position, end)


def _piece(start: int, end: int, verdict: _Verdict) -> Iterator[tuple[int, int, bool]]:
    if start < end:
        yield start, end - 1, verdict.passes


def _bounds(verdicts: dict[IPv4Network, _Verdict]) -> Iterator[tuple[int, int, int, _Verdict]]:
    for network, verdict in verdicts.items():
        first = int(network.network_address)
        yield first, network.prefixlen, first + network.num_addresses, verdict


def _by_length(rules: Rules, targets: Iterable[Target]) -> dict[int, list[tuple[IPv4Network, Ports]]]:
    found: defaultdict[int, list[tuple[IPv4Network, Ports]]] = defaultdict(list)
    for target in targets:
        network = rules.network(target)
        if network is not None and target.ports is not None:
            found[network.prefixlen].append((network, target.ports))
    return found


def _joined(elements: list[tuple[IPv4Network, Ports]]) -> tuple[tuple[IPv4Network, Ports], ...]:
    """The same without overlaps: ports of one network that touch become one range."""
    joined: list[tuple[IPv4Network, Ports]] = []
    for network, ports in sorted(elements, key=lambda element: (element[0], element[1].first)):
        if joined and joined[-1][0] == network and ports.first <= joined[-1][1].last + 1:
            last = joined[-1][1]
            joined[-1] = (network, Ports(first=last.first, last=max(last.last, ports.last)))
        else:
            joined.append((network, ports))
    return tuple(joined)
