"""What a fork takes over from the machine it is a copy of, instead of booting."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """A machine's state in two open files, which the caller keeps open until the VM runs."""

    state: int
    """Descriptor of the devices' state, a migration stream from its beginning on."""
    ram: int | None
    """Descriptor of its memory, a file that is never written again; None when the stream has it."""
    mac: str
    """The MAC address the guest believes to have."""
