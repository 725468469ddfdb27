"""`tart sync`: the synchronised folders of a running VM, now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from tartlet.vm.control.ask import asked
from tartlet.vm.stored.folder import VmFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Synchronised:
    """What became of one folder."""

    path: str
    """On this host."""
    guest_path: str
    sent: int
    """Files, folders and links that the guest has got or lost."""
    brought: int
    """Those that this host has got or lost."""
    conflicts: tuple[tuple[str, str], ...]
    """What both sides had changed: the path of the host's version, and of the guest's, below `path`."""
    left: tuple[str, ...]
    """What changed meanwhile, or could not be read: it waits for the next time."""


async def sync_now(vm: VmFolder) -> list[Synchronised]:
    """Bring the guest's changes of `--dir=…:sync` folders to this host, and this host's to the guest.

    Raises VmNotRunning, SupervisorGone, and Refused with the supervisor's reason.
    """
    async with asked(vm, "sync") as answer:
        return [_told(folder) for folder in cast("list[dict[str, Any]]", answer.told["folders"])]


def _told(folder: dict[str, Any]) -> Synchronised:
    return Synchronised(
        path=folder["path"],
        guest_path=folder["guest_path"],
        sent=folder["sent"],
        brought=folder["brought"],
        conflicts=tuple((path, beside) for path, beside in folder["conflicts"]),
        left=tuple(folder["left"]),
    )
