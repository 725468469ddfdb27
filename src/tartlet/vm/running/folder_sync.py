"""The synchronised folders of one run: when they are copied into the guest, and when its changes come back.

In at the start, once an agent answers; back when the VM is stopped or suspended, when the guest stops by itself, and
whenever somebody asks for both. What could not be brought back lies in the guest, and comes at its next start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import anyio

from tartlet.errors import UserError
from tartlet.guest.errors import AgentFailed, escaped
from tartlet.guest.service.agents import GuestAgents, Kind
from tartlet.share.arguments import Synced
from tartlet.vm.control.sync_now import Synchronised

_PATIENCE = 60.0
_LAST_PATIENCE = 5.0
"""Seconds an agent gets to answer when the VM is about to end."""


class NothingToSync(UserError):
    """The VM has no synchronised folders."""

    def __init__(self) -> None:
        super().__init__("the VM has no folder to synchronise", "run it with --dir=NAME:PATH:sync")


class FolderSync:
    """The folders of a VM that runs; without any, nothing happens."""

    def __init__(
        self, folders: Sequence[Synced], vm_folder: Path, agents: GuestAgents, announce: Callable[[str], None]
    ) -> None:
        self._folders, self._vm_folder, self._agents, self._announce = folders, vm_folder, agents, announce
        self._turn = anyio.Lock()
        self._settled = anyio.Event()
        self._copied: set[str] = set()
        """The copies that are in the guest, by their paths there."""
        self._working: anyio.CancelScope | None = None

    async def run(self) -> None:
        """Copy in once the guest's agent answers, then be there for a guest that stops by itself. Does not return."""
        if not self._folders:
            self._settled.set()
            return
        kind = await self._first_answer()
        await self._all(self._folders, send=True, patience=_PATIENCE)
        self._settled.set()
        if kind is not Kind.TART:
            self._announce(
                "Only Tartlet's own agent tells when the guest stops by itself, and another one answers: changes then "
                "come back at the next start. `tart agent install` brings it."
            )
        await self._follow_shutdowns()

    async def _first_answer(self) -> Kind:
        while True:
            try:
                return await self._agents.answers()
            except UserError:
                await anyio.sleep(1)

    async def _follow_shutdowns(self) -> None:
        try:
            await self._agents.before_shutdown(self.bring_back)
        except AgentFailed as exc:
            self._announce(
                f"The guest does not tell when it stops by itself ({exc}): its changes then come back at the next "
                "start. `tart agent install` brings it a newer agent."
            )

    async def settled(self) -> None:
        """Return when the folders have been copied in, or it is known that they cannot be."""
        await self._settled.wait()

    async def bring_back(self) -> None:
        """The guest is about to stop. What goes wrong is announced: the changes lie in the guest then."""
        if not self._settled.is_set():
            self.give_up()  # what still goes in comes too late
        here = [folder for folder in self._folders if folder.guest_path in self._copied and not folder.read_only]
        if here:
            await self._all(here, send=False, patience=_LAST_PATIENCE)

    def give_up(self) -> None:
        """Stop what is being copied; each side has whole files."""
        if self._working is not None:
            self._working.cancel()

    async def now(self) -> list[Synchronised]:
        """Both ways, at once. Raises NothingToSync, SyncFailed, FileTrouble, AgentUnavailable, AgentFailed."""
        if not self._folders:
            raise NothingToSync
        async with self._turn:
            return [await self._one(folder, send=True, patience=_PATIENCE) for folder in self._folders]

    async def _all(self, folders: Sequence[Synced], *, send: bool, patience: float) -> None:
        with anyio.CancelScope() as self._working:
            async with self._turn:
                for folder in folders:
                    await self._announced(folder, send=send, patience=patience)

    async def _announced(self, folder: Synced, *, send: bool, patience: float) -> None:
        try:
            done = await self._one(folder, send=send, patience=patience)
        except UserError as exc:
            waiting = "" if send else f" Changes wait at {folder.guest_path} in the guest for its next start."
            self._announce(f"{exc}{f' ({exc.hint})' if exc.hint else ''}.{waiting}")
            return
        if done.sent:
            self._announce(f"{folder.path} -> {folder.guest_path}: {done.sent} copied into the guest.")
        if done.brought:
            self._announce(f"{folder.guest_path} -> {folder.path}: {done.brought} brought back from the guest.")
        for path, beside in done.conflicts:
            self._announce(
                f"{escaped(path)} in {folder.path} was changed on both sides: the guest's is {escaped(beside)}."
            )
        for first in done.left[:1]:
            more = f" and {len(done.left) - 1} more" if len(done.left) > 1 else ""
            self._announce(f"{escaped(first)}{more} in {folder.path}: not synchronised, next time.")

    async def _one(self, folder: Synced, *, send: bool, patience: float) -> Synchronised:
        from tartlet.vm.running.sync import synchronised  # brings the client of the guest's agent

        outcome = await synchronised(self._vm_folder, folder, send=send, patience=patience)
        self._copied.add(folder.guest_path)
        return Synchronised(
            path=folder.path,
            guest_path=folder.guest_path,
            sent=outcome.sent,
            brought=outcome.brought,
            conflicts=tuple(outcome.conflicts),
            left=tuple(outcome.left),
        )
