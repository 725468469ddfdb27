"""A policy as `nft` input: the sets and chains that decide about a VM's packets, and how one replaces another.

A policy stands in a slot, `a` or `b`, that its sets are named for. The next one fills the sets of the other slot, and
then one transaction turns the VM's chain to them: no packet meets half a policy. Filling takes transactions of its own,
because Linux shows new rules a moment before new elements of sets with ranges and ports (seen with 6.18: a packet in
that moment finds them empty); and a process without rights on the host can send no more than net.core.wmem_default,
about 200 KiB, at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from tartlet.network.policy.flatten import open_ranges, port_levels
from tartlet.network.policy.policy import Policy, Rules
from tartlet.network.policy.targets import Ports, Way
from tartlet.network.rules.plug import Plug

_AT_ONCE = 1000
"""Elements in one transaction."""

_ADDRESSES, _PLACES = "ipv4_addr", "ipv4_addr . inet_service"

REFUSED_SETS = """set refused { type ipv4_addr . inet_proto . inet_service; flags dynamic, timeout; \
size 1024; timeout 1d; counter; }
    set refused_other { type ipv4_addr . inet_proto; flags dynamic, timeout; size 1024; timeout 1d; counter; }"""
"""Destinations that were refused, counted, and forgotten a day after the last packet. Further ones are only dropped."""


def named_sets(slot: str) -> str:
    """Addresses of allowed names, each for as long as its name server said; those in use, until they rest so long."""
    return f"""set named_{slot} {{ type ipv4_addr; flags timeout; size 8192; }}
    set named_ports_{slot} {{ type ipv4_addr . inet_service; flags interval, timeout; size 8192; }}
    set in_use_{slot} {{ type ipv4_addr; flags dynamic, timeout; size 8192; timeout 10m; }}
    set in_use_ports_{slot} {{ type ipv4_addr . inet_service; flags dynamic, timeout; size 8192; timeout 10m; }}"""


REMEMBER = """meta l4proto { tcp, udp } update @refused { ip daddr . ip protocol . th dport counter }
        meta l4proto != { tcp, udp } update @refused_other { ip daddr . ip protocol counter }
        counter drop comment \"refused_packets\""""


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """A policy and where it stands. None lets everything pass that bears the VM's own addresses."""

    policy: Policy | None
    slot: str = "a"

    def followed_by(self, policy: Policy | None) -> InForce:
        """The next policy, in the other slot."""
        return InForce(policy=policy, slot="b" if self.slot == "a" else "a")


def policy_steps(plug: Plug, new: InForce, old: InForce | None = None) -> list[str]:
    """Transactions, to be loaded in order, that put `new` into force in place of `old`; `table_for` comes first.

    Only the last one changes what passes. When one is refused, `old` is in force still; what the slot of `new` holds
    then is taken away by the next try.
    """
    table = judging_table(plug, new)
    filled, chains = _parts(plug, new)
    switch = [f"flush chain bridge {plug.table} judge", *chains, *(_taken_away(plug, old) if old else [])]
    pieces = [piece for one in filled for piece in _pieces(table, one)]
    ready = "\n".join([*_made_ready(plug, new), *(_empty(table, one) for one in filled)])
    if sum(len(one.elements) for one in filled) <= _AT_ONCE:
        return ["\n".join([ready, *pieces]), "\n".join(switch)]
    return [ready, *pieces, "\n".join(switch)]


def flow_table(plug: Plug, slot: str) -> str:
    """The name of the table, in the family inet, that judges flows when a policy has directions."""
    return f"{plug.table}_{slot}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    name: str
    kind: str
    elements: tuple[str, ...]


def judging_table(plug: Plug, one: InForce) -> str:
    """The table, with its family, that holds a policy's sets and counts what it refuses."""
    directional = one.policy is not None and one.policy.directional
    return f"inet {flow_table(plug, one.slot)}" if directional else f"bridge {plug.table}"


def _parts(plug: Plug, one: InForce) -> tuple[list[_Set], list[str]]:
    """The sets of a policy, and the input that makes the chains which look into them."""
    judge = f"add rule bridge {plug.table} judge"
    if one.policy is None:
        return [], [f"{judge} accept"]
    outgoing = one.policy.rules(Way.OUT, plug.gateway)
    sent = f"sent_{one.slot}"
    if not one.policy.directional:
        rules = [f"{judge} {rule}" for rule in _judging(outgoing, "ip daddr", "th dport", sent, one.slot)]
        return _sets(outgoing, sent), rules
    incoming = one.policy.rules(Way.IN, plug.gateway)
    got = f"got_{one.slot}"
    filled = [*_sets(outgoing, sent), *_sets(incoming, got)]
    return filled, [f"{judge} accept", _flow_chains(plug, one.slot, (outgoing, sent), (incoming, got))]


def _sets(rules: Rules, prefix: str) -> list[_Set]:
    """All sets that `_judging` looks into, apart from those of names."""
    found = [_Set(name=prefix, kind=_ADDRESSES, elements=tuple(str(one) for one in open_ranges(rules)))]
    for level in port_levels(rules):
        found += [
            _Set(name=f"{prefix}_{level.length}_{word}", kind=_PLACES, elements=_places(members))
            for word, members in (("shut", level.blocked), ("open", level.allowed))
            if members
        ]
    return found


def _judging(rules: Rules, address: str, port: str, prefix: str, slot: str) -> Iterator[str]:
    """The rules of a chain that decides by the VM's peer: elements with ports before those without."""
    ported = f"meta l4proto {{ tcp, udp }} {address} . {port}"
    named_ports = _by_name(rules, ported, f"{address} . {port}", "_ports", slot)
    levels = port_levels(rules)
    if not levels or levels[0].length != 32:
        yield from named_ports
    for level in levels:
        if level.blocked:
            yield f"{ported} @{prefix}_{level.length}_shut goto refuse"
        if level.length == 32:  # a name is as good as a single address, and a block of just that address wins
            yield from named_ports
        if level.allowed:
            yield f"{ported} @{prefix}_{level.length}_open accept"
    yield from _by_name(rules, address, address, "", slot)
    yield f"{address} @{prefix} accept"
    yield "goto refuse"


def _by_name(rules: Rules, matched: str, key: str, suffix: str, slot: str) -> list[str]:
    """The rules for allowed names, with or without ports. An address in use stays reachable after its name's time."""
    if not any(target.domain and bool(target.ports) is bool(suffix) for target in rules.allow):
        return []
    named, in_use = f"@named{suffix}_{slot}", f"@in_use{suffix}_{slot}"
    kept = f"update {in_use} {{ {key} }} accept"
    return [f"{matched} {named} {kept}", f"{matched} {in_use} {kept}", f"{matched} {named} accept"]


def names_input(plug: Plug, one: InForce, names: Iterable[tuple[IPv4Address, Ports | None, int]]) -> str:
    """The input that opens the way to addresses of allowed names for some seconds each, or for longer than before."""
    table = judging_table(plug, one)
    lines: list[str] = []
    for address, ports, seconds in names:
        name, element = (
            (f"named_ports_{one.slot}", f"{address} . {ports}") if ports else (f"named_{one.slot}", f"{address}")
        )
        where = f"{table} {name}"
        # Added, so that it can be removed: an element that is there already would keep its old time.
        lines += [f"add element {where} {{ {element} }}", f"delete element {where} {{ {element} }}"]
        lines.append(f"add element {where} {{ {element} timeout {seconds}s }}")
    return "\n".join(lines)


def _places(members: Sequence[tuple[IPv4Network, Ports]]) -> tuple[str, ...]:
    return tuple(f"{network} . {ports}" for network, ports in members)


def _made_ready(plug: Plug, one: InForce) -> list[str]:
    """The input that empties the slot: a new table for flows, else the sets of names."""
    if one.policy is None or not one.policy.directional:
        names = ("named", "named_ports", "in_use", "in_use_ports") if one.policy and one.policy.domains else ()
        return [f"flush set bridge {plug.table} {name}_{one.slot}" for name in names]
    table = f"inet {flow_table(plug, one.slot)}"
    body = f"flags owner;\n    {named_sets(one.slot)}\n    {REFUSED_SETS}"
    return [f"add table {table} {{ flags owner; }}", f"delete table {table}", f"table {table} {{\n    {body}\n}}"]


def _taken_away(plug: Plug, old: InForce) -> list[str]:
    if old.policy is None:
        return []
    if old.policy.directional:
        return [f"delete table inet {flow_table(plug, old.slot)}"]
    rules = old.policy.rules(Way.OUT, plug.gateway)
    return [f"delete set bridge {plug.table} {one.name}" for one in _sets(rules, f"sent_{old.slot}")]


def _empty(table: str, one: _Set) -> str:
    return f"add set {table} {one.name} {{ type {one.kind}; flags interval; }}\nflush set {table} {one.name}"


def _pieces(table: str, one: _Set) -> list[str]:
    return [
        f"add element {table} {one.name} {{ {', '.join(one.elements[start : start + _AT_ONCE])} }}"
        for start in range(0, len(one.elements), _AT_ONCE)
    ]


def _flow_chains(plug: Plug, slot: str, outgoing: tuple[Rules, str], incoming: tuple[Rules, str]) -> str:
    """Every packet is judged by the rules of the side that started its flow, so a new policy rules old flows too.

    Packets from the VM are seen before addresses are translated, those to it after all of that: both name the VM's own
    address and port, and the peer as the VM knows it. What conntrack cannot place has no direction and is dropped.
    """
    chains = "".join(
        f"\n    chain {name} {{\n        " + "\n        ".join(_judging(rules, address, port, prefix, slot)) + "\n    }"
        for name, (rules, prefix), address, port in (
            ("own_sends", outgoing, "ip daddr", "th dport"),
            ("own_receives", outgoing, "ip saddr", "th sport"),
            ("foreign_sends", incoming, "ip saddr", "th dport"),
            ("foreign_receives", incoming, "ip daddr", "th sport"),
        )
    )
    return f"""table inet {flow_table(plug, slot)} {{
    flags owner;
    chain refuse {{
        ip saddr != {plug.address} drop
        {REMEMBER}
    }}{chains}
    chain sends {{
        udp sport 68 udp dport 67 accept
        ct state related accept
        ct direction original goto own_sends
        ct direction reply goto foreign_receives
        drop
    }}
    chain receives {{
        udp sport 67 udp dport 68 accept
        ct state related accept
        ct direction original goto foreign_sends
        ct direction reply goto own_receives
        drop
    }}
    chain from_vm {{
        type filter hook prerouting priority mangle; policy accept;
        ip saddr {plug.address} iifname "{plug.bridge}" goto sends
    }}
    chain to_vm {{
        type filter hook postrouting priority 150; policy accept;
        ip daddr {plug.address} oifname "{plug.bridge}" goto receives
    }}
}}"""
