"""What a DNS answer says about names that a policy allows (RFC 1035; the library dnspython reads the packets)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, cast


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An address that a name has for a while."""

    address: IPv4Address
    seconds: int
    """How long the name server lets the answer be kept."""


def covers(domain: str, name: str) -> bool:
    """Whether an element covers a name: `github.com` itself only, `*.github.com` every name below it."""
    if domain.startswith("*."):
        return name.endswith(domain[1:]) and name != domain[2:]
    return name == domain


def asked_name(packet: bytes) -> str | None:
    """The name, in lower case, that a query asks the IPv4 addresses of; None for every other packet."""
    from dns.exception import DNSException
    from dns.message import from_wire
    from dns.rdataclass import IN
    from dns.rdatatype import A

    try:
        question = from_wire(packet, ignore_trailing=True).question
    except (DNSException, ValueError):
        return None
    if len(question) != 1 or question[0].rdtype != A or question[0].rdclass != IN:
        return None
    return question[0].name.to_text(omit_final_dot=True).lower()


def found(packet: bytes, name: str) -> list[Found]:
    """The addresses of `name` in an answer, directly or by aliases (CNAME) within it; the shortest time of the way."""
    from dns.exception import DNSException
    from dns.message import QueryMessage, from_wire

    try:
        message = from_wire(packet, ignore_trailing=True)
        if not isinstance(message, QueryMessage) or not message.question:
            return []
        if message.question[0].name.to_text(omit_final_dot=True).lower() != name:
            return []
        chain = message.resolve_chaining()
    except (DNSException, ValueError):
        return []
    records = cast("Iterable[Any]", chain.answer or ())
    return [Found(address=IPv4Address(record.address), seconds=chain.minimum_ttl) for record in records]
