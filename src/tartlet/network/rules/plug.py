"""Where a VM hangs on its network, and what its tables in the kernel are called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address

_INTERFACE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,14}")
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plug:
    """One network card of a VM on one tap. Raises ValueError for names that could not stand in a rule."""

    tap: str
    bridge: str
    mac: str
    address: IPv4Address
    """The VM's own: reserved before it boots, and the only one that it may use."""
    gateway: IPv4Address

    def __post_init__(self) -> None:
        interface(self.tap)
        interface(self.bridge)
        if not _MAC.fullmatch(self.mac):
            raise ValueError(f"{self.mac!r} is no MAC address in lower case")

    @property
    def table(self) -> str:
        """The name of the VM's tables: in the family bridge, and in inet the one for exposed ports."""
        return f"tart_{self.tap}"


def interface(name: str) -> str:
    """The name, when it is one that we give interfaces. Raises ValueError."""
    if not _INTERFACE.fullmatch(name):
        raise ValueError(f"{name!r} is no name for an interface")
    return name
