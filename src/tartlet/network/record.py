"""What a live VM's network is, kept beside it for `tart ip`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from tartlet.host.files import write_whole

FILE_NAME = "network.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """The network of one run."""

    backend: str
    address: str | None
    """Where the host reaches the guest: what `tart ip` prints. None where only the guest's network knows."""
    ssh_port: int = 22
    """The TCP port on `address` that leads to the guest's SSH."""
    guest_address: str | None = None
    """The guest's own address, where it is known before the guest asks for it."""
    interfaces: tuple[str, ...] = ()
    """The host's interfaces that the VM is bridged to, one for each card."""


def write(folder: Path, record: NetworkRecord) -> None:
    """Keep the record in the VM's folder, in one step. Raises OSError."""
    write_whole(folder / FILE_NAME, json.dumps(asdict(record)).encode())


def read(folder: Path) -> NetworkRecord | None:
    """The record of the VM's current or last run; None without one.

    It says what *is* only while the VM runs, which the caller knows by the VM's lock. A file that holds something
    else counts as none: it is a convenience of ours, not the user's data.
    """
    try:
        told: Any = json.loads((folder / FILE_NAME).read_bytes())
        return NetworkRecord(
            backend=str(told["backend"]),
            address=_address(told["address"]),
            ssh_port=int(told["ssh_port"]),
            guest_address=_address(told["guest_address"]),
            interfaces=tuple(str(name) for name in told.get("interfaces", ())),
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _address(told: object) -> str | None:
    return None if told is None else str(IPv4Address(str(told)))
