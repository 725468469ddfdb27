"""The packet filters of this host as nft shows them, whoever made them: iptables, ufw, firewalld, an administrator.

Format: libnftables-json(5). Only chains are listed: nft 1.0.6 writes the flags of tables that have an owner from freed
memory.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

from tartlet.errors import ToolFailed, ToolMissing, UserError
from tartlet.host.process import run_now

_PATIENCE = 10.0
_CALLS = ("jump", "goto")
_REFUSING = ("drop", "reject")
_INTERFACES = ("iifname", "oifname", "iif", "oif")

Expression = Sequence[Mapping[str, Any]]
"""What a rule consists of, in order."""


class RulesUnreadable(UserError):
    """The host's packet filters cannot be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One chain of a table."""

    family: str
    table: str
    name: str
    hook: str | None
    """Where the kernel calls it: `input`, `forward`…; None for one that other chains call."""
    policy: str | None


class HostRules:
    """The rules as they are in this network namespace; each chain is read when it is wanted."""

    def __init__(self) -> None:
        """Raises RulesUnreadable, ToolMissing."""
        self.chains = [_chain(told["chain"]) for told in _listed("chains") if "chain" in told]
        self._rules = dict[Chain, list[Expression]]()

    def hooked(self, hook: str) -> Iterator[Chain]:
        """The chains that IPv4 packets meet at a hook, ours left out."""
        for chain in self.chains:
            if chain.hook == hook and chain.family in ("ip", "inet") and not chain.table.startswith("tart_"):
                yield chain

    def beside(self, chain: Chain) -> Iterator[Chain]:
        """All chains of its table."""
        return (other for other in self.chains if (other.family, other.table) == (chain.family, chain.table))

    def refuses(self, chain: Chain) -> bool:
        """Whether what no rule speaks of is stopped: by the chain's policy, or by a last rule without a condition."""
        if chain.policy == "drop":
            return True
        rules = self._of(chain)
        return bool(rules) and _verdict(rules[-1]) in _REFUSING and not _conditions(rules[-1])

    def mentions(self, chain: Chain, interface: str) -> bool:
        """Whether the chain, or one that it calls, has a rule of an interface's own that is no refusal."""
        known = {other.name: other for other in self.beside(chain)}
        seen, left = set[str](), [chain.name]
        while left:
            name = left.pop()
            if name in seen or name not in known:
                continue
            seen.add(name)
            for rule in self._of(known[name]):
                if _names(rule, interface) and _verdict(rule) not in (None, *_REFUSING):
                    return True
                left += [str(part[call]["target"]) for part in rule for call in _CALLS if call in part]
                left += _mapped(rule)
        return False

    def _of(self, chain: Chain) -> list[Expression]:
        if chain not in self._rules:
            told = _listed("chain", chain.family, chain.table, chain.name)
            self._rules[chain] = [one["rule"]["expr"] for one in told if "expr" in one.get("rule", {})]
        return self._rules[chain]


def _listed(*what: str) -> list[dict[str, Any]]:
    try:
        told: Any = json.loads(run_now("nft", "--json", "list", *what, timeout=_PATIENCE))
        return cast("list[dict[str, Any]]", told["nftables"])
    except ToolMissing as exc:
        raise ToolMissing("nft", "install it: apt install nftables") from exc
    except ToolFailed as exc:
        if "ermitted" in exc.stderr:
            raise RulesUnreadable("only root can read this host's packet filters", "sudo tart doctor") from exc
        raise RulesUnreadable(f"this host's packet filters cannot be read: {exc}") from exc
    except (ValueError, KeyError, subprocess.TimeoutExpired) as exc:
        raise RulesUnreadable(f"nft does not tell this host's packet filters: {exc}") from exc


def _chain(told: Mapping[str, Any]) -> Chain:
    return Chain(
        family=told["family"],
        table=told["table"],
        name=told["name"],
        hook=told.get("hook") if told.get("type", "filter") == "filter" else None,
        policy=told.get("policy"),
    )


def _verdict(rule: Expression) -> str | None:
    """What happens to a packet that a rule is about: `accept`, `drop`, `jump`…; None where nothing does."""
    words = ("accept", *_REFUSING, *_CALLS, "return", "vmap")
    return next((word for part in rule for word in words if word in part), None)


def _conditions(rule: Expression) -> bool:
    return any("match" in part or part.get("xt", {}).get("type") == "match" for part in rule)


def _names(rule: Expression, interface: str) -> bool:
    matches = (part["match"] for part in rule if "match" in part)
    return any(
        match["op"] == "==" and _is_interface(match["left"]) and _covers(match["right"], interface) for match in matches
    )


def _is_interface(left: object) -> bool:
    return _object(_object(left).get("meta")).get("key") in _INTERFACES


def _covers(right: object, interface: str) -> bool:
    if isinstance(right, str):
        return fnmatchcase(interface, right)
    return any(_covers(member, interface) for member in _object(right).get("set", ()))


def _mapped(rule: Expression) -> Iterator[str]:
    """The chains that a verdict map written into a rule leads to."""
    for part in rule:
        for _, verdict in _object(part.get("vmap", {}).get("data")).get("set", ()):
            yield from (str(verdict[call]["target"]) for call in _CALLS if call in verdict)


def _object(told: object) -> dict[str, Any]:
    """The members of a JSON object; none of anything else."""
    return cast("dict[str, Any]", told) if isinstance(told, dict) else {}
