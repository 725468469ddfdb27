"""`tart sync`: the synchronised folders of a running VM, now."""

from __future__ import annotations

from typing import Any, cast

from tartlet.vm.ask import asked
from tartlet.vm.folder import VmFolder
from tartlet.vm.folder_sync import Synchronised


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
