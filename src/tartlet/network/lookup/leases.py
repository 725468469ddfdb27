"""Which address a DHCP server gave to a MAC address, read from the server's own file.

Two formats: Apple's bootpd (a Mac keeps `/var/db/dhcpd_leases`) and dnsmasq's (dnsmasq(8), `--dhcp-leasefile`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from tartlet.errors import UserError

APPLE_FILE = Path("/var/db/dhcpd_leases")
_BLANKS = " \t"
_ETHERNET = 1


class LeaseFileBroken(UserError):
    """A lease file that does not keep to its format."""

    def __init__(self, what: str, line: int | None = None) -> None:
        super().__init__(f"the DHCP lease file cannot be read: {what}" + (f" in line {line}" if line else ""))
        self.line = line
        """Counted without the empty lines, which is how they are skipped; None at the end of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """An address that belongs to a MAC address until it expires."""

    mac: bytes
    address: IPv4Address
    expires: float
    """Unix time; infinite for a lease without an end."""


def mac_bytes(text: str) -> bytes | None:
    """The six octets of `0:1a:…` or `00:1A:…`; None when the text is no MAC address."""
    octets = text.split(":")
    if len(octets) != 6 or not all(re.fullmatch(r"[0-9A-Fa-f]{1,2}", octet) for octet in octets):
        return None
    return bytes(int(octet, 16) for octet in octets)


def address_of(mac: str, leases: Iterable[Lease], now: float | None = None) -> IPv4Address | None:
    """The address that `mac` has; of several leases the one that ends last, of equal ones the later in the file."""
    wanted, moment = mac_bytes(mac), time.time() if now is None else now
    valid = [lease for lease in leases if lease.mac == wanted and lease.expires > moment]
    best: Lease | None = None
    for lease in valid:
        if best is None or lease.expires >= best.expires:
            best = lease
    return best.address if best else None


def apple(text: str) -> list[Lease]:
    """The usable entries of a bootpd lease file, expired ones too. Raises LeaseFileBroken."""
    return [lease for entry in _blocks(text) if (lease := _apple_lease(entry))]


def dnsmasq(text: str) -> list[Lease]:
    """The IPv4 entries of a dnsmasq lease file, expired ones too: `expiry MAC address name client-id` in each line."""
    return [lease for line in text.splitlines() if (lease := _dnsmasq_lease(line.split()))]


def _blocks(text: str) -> Iterator[dict[str, str]]:
    """The entries between `{` and `}`, key by key."""
    entry: dict[str, str] = {}
    inside = False
    for number, line in enumerate((line for line in text.split("\n") if line), start=1):
        if line == "{":
            if inside or entry:
                raise LeaseFileBroken("an entry begins inside another", number)
            inside = True
        elif line == "}":
            if not entry:
                raise LeaseFileBroken("an entry without a line ends", number)
            yield entry
            entry, inside = {}, False
        elif line.strip(_BLANKS):
            key, _, value = line.lstrip(_BLANKS).partition("=")
            if not key or not value:
                raise LeaseFileBroken("a key without a value", number)
            entry[key] = value
    if inside or entry:
        raise LeaseFileBroken("it ends inside an entry")


def _apple_lease(entry: dict[str, str]) -> Lease | None:
    hardware = entry.get("hw_address", "").split(",")
    if len(hardware) != 2 or (hardware[0].isdecimal() and int(hardware[0]) != _ETHERNET):
        return None
    mac, address, expires = mac_bytes(hardware[1]), _address(entry.get("ip_address")), _hex(entry.get("lease"))
    if mac is None or address is None or expires is None:
        return None
    return Lease(mac=mac, address=address, expires=expires)


def _dnsmasq_lease(words: list[str]) -> Lease | None:
    if len(words) < 3 or not words[0].isdecimal():
        return None  # `duid …`, which begins the IPv6 leases, or nothing
    mac, address, expiry = mac_bytes(words[1]), _address(words[2]), int(words[0])
    if mac is None or address is None:
        return None
    return Lease(mac=mac, address=address, expires=expiry or float("inf"))


def _address(text: str | None) -> IPv4Address | None:
    try:
        return IPv4Address(text or "")
    except ValueError:
        return None


def _hex(text: str | None) -> int | None:
    return int(text, 16) if text and re.fullmatch(r"(0[xX])?[0-9A-Fa-f]+", text) else None
