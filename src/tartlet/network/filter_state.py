"""What a VM's filter does at the moment, as a value: the policy in force, and what was dropped so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_FORGED = ("foreign_mac", "false_arp", "foreign_source")
_REFUSED = "refused_packets"


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterState:
    """One VM's filter."""

    allow: tuple[str, ...] | None
    """The elements of the policy in force; None where there is none, and all passes that bears the VM's addresses."""
    block: tuple[str, ...] | None
    revision: str | None
    """What the peer of the control channel calls the policy; None when it gave it no name."""
    dropped: Mapping[str, int]
    """Packets since the VM started, by reason: `foreign_mac`, `false_arp`, `foreign_source`, `refused_packets`…"""

    @property
    def forged(self) -> int:
        """Packets under addresses that are not the VM's."""
        return sum(self.dropped.get(reason, 0) for reason in _FORGED)

    @property
    def refused(self) -> int:
        """Packets to places that the policy closes."""
        return self.dropped.get(_REFUSED, 0)
