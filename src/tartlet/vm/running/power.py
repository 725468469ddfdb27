"""What takes a running machine's power, for a moment or for good: halting, suspending, switching off."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from tartlet.console.clipboard import SharedClipboard
from tartlet.errors import UserError
from tartlet.host.files import removed, sync_folder
from tartlet.host.scratch import scratch_folder
from tartlet.host.trouble import what_to_do
from tartlet.hypervisor import state_file
from tartlet.hypervisor.process import Process
from tartlet.hypervisor.qmp import Monitor
from tartlet.hypervisor.state_file import Fingerprint, SaveFailed
from tartlet.vm.running.folder_sync import FolderSync
from tartlet.vm.stored.ended import Ending
from tartlet.vm.stored.folder import STATE
from tartlet.vsock.slot import VsockSlot

_QUIT_TIMEOUT = 5
"""Seconds QEMU gets to flush its disks and end when the power is cut; then it is killed."""


class VmEnding(UserError):
    """The VM is being stopped or suspended."""

    def __init__(self) -> None:
        super().__init__("the VM is being stopped or suspended", "start it again, then repeat this")


@dataclass(slots=True, kw_only=True)
class Power:
    """One machine's power, and what has to be done before it goes."""

    tmp: Path
    folder: Path
    """The VM's, by a name that stays right when the VM is renamed."""
    monitor: Monitor
    process: Process
    sync: FolderSync
    clipboard: SharedClipboard
    vsock: VsockSlot
    announce: Callable[[str], None]
    decided: Ending | None = None
    """The end that somebody ordered, once nothing can change it."""
    _suspending: bool = False
    _cutting: bool = False
    _halting: anyio.Lock = field(default_factory=anyio.Lock)

    async def cut(self) -> None:
        """The guest is not asked, its disks are flushed. Returns when QEMU has ended.

        What the guest changed in synchronised folders is brought back before; ordered again, that is given up.
        """
        if self._cutting:
            self.sync.give_up()
            return
        self._cutting = True
        if not self._suspending:  # then they were brought back already, and the guest may stand still
            await self.sync.bring_back()
        self.decided = self.decided or Ending.STOPPED
        await self._quit()

    async def _quit(self) -> None:
        with anyio.move_on_after(_QUIT_TIMEOUT):
            await self.monitor.quit()
            await self.process.wait()
            return
        self.process.send(signal.SIGKILL)

    async def suspend(self, of: Callable[[], Fingerprint]) -> None:
        """Save the machine, which is what `of` tells, to the VM's folder and end it. When that fails it goes on.

        Raises SaveFailed, StillPlugged, CommandFailed, MonitorUnreachable.

        When the power is cut meanwhile, that wins. Asked again meanwhile, nothing more is done.
        """
        if self._suspending:  # a second save would fail, and then let the guest go on behind the first one's back
            self.announce("The VM is being suspended already.")
            return
        self._suspending = True
        try:
            self.announce("Suspending VM...")
            await self.sync.bring_back()
            async with self._halting, self.clipboard.kept_out(), self.vsock.kept_empty():
                size = await self._saved(of())
        finally:
            self._suspending = self.decided is Ending.SUSPENDED
        if self.decided is Ending.SUSPENDED:
            self.announce(f"VM suspended: {size // 1_000_000} MB saved")
            await self._quit()

    async def _saved(self, of: Fingerprint) -> int:
        """Bytes of the state, which is in its place when this ends with the decision to suspend."""
        with scratch_folder(self.tmp) as work:
            part = work / STATE
            size = await state_file.save(self.monitor, part, of)
            if self.decided is not None:
                return size
            try:
                os.replace(part, self.folder / STATE)
                sync_folder(self.folder)
            except OSError as exc:
                removed(self.folder / STATE)
                await self.monitor.cont()
                raise SaveFailed(f"cannot put the state in its place: {exc.strerror}", what_to_do(exc)) from exc
            self.decided = Ending.SUSPENDED
            return size

    @asynccontextmanager
    async def halted(self) -> AsyncGenerator[None]:
        """Halt the guest for the length of the block, its disks flushed; one caller at a time.

        Raises VmEnding, StillPlugged, CommandFailed, MonitorUnreachable.
        """
        async with self.kept():
            if self.decided is not None or self._suspending:
                raise VmEnding
            async with self.clipboard.kept_out(), self.vsock.kept_empty(), self._stopped():
                yield

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """Nobody halts the guest for the length of the block."""
        async with self._halting:
            yield

    @asynccontextmanager
    async def _stopped(self) -> AsyncGenerator[None]:
        was = await self.monitor.status()
        await self.monitor.stop()
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await state_file.go_on(self.monitor, was)
