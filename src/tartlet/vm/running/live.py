"""A VM that runs: what can be asked of it, and how it came to its end."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio

from tartlet.console.clipboard import SharedClipboard
from tartlet.console.hub import SerialConsole
from tartlet.errors import UserError
from tartlet.guest.own_agent.port_session import TartAgent
from tartlet.guest.own_agent.tart_agent import PORT
from tartlet.guest.qga.agent import QemuGuestAgent
from tartlet.guest.qga.commands import QgaCommands
from tartlet.guest.service.agents import GuestAgents, Kind
from tartlet.guest.service.vsock_agent import VsockAgent
from tartlet.host.sockets import listening
from tartlet.hypervisor import state_file
from tartlet.hypervisor.devices import GUEST_AGENT_PORT
from tartlet.hypervisor.disk_options import parse_root_disk_options
from tartlet.hypervisor.machine_news import News, PortChanged, Restarted, ShutDown
from tartlet.hypervisor.process import Process
from tartlet.hypervisor.qmp import Monitor, MonitorUnreachable
from tartlet.hypervisor.root_disk import RootDisk
from tartlet.network import record
from tartlet.share.arguments import synced
from tartlet.vm.planning.plan import Plan
from tartlet.vm.planning.suspendable import check_suspendable
from tartlet.vm.running.folder_sync import FolderSync
from tartlet.vm.running.network_record import kept_up
from tartlet.vm.running.power import Power
from tartlet.vm.running.run_log import RunLog, kept_short
from tartlet.vm.running.web import WebConsole
from tartlet.vm.stored.ended import Ending, LastRun, RunRecord
from tartlet.vsock.slot import VsockSlot

log = logging.getLogger(__name__)

_PORTS = {GUEST_AGENT_PORT: Kind.QEMU, PORT: Kind.TART}
"""By their ids."""

_ENDINGS: Mapping[ShutDown | None, Ending] = {
    ShutDown.BY_GUEST: Ending.GUEST_SHUT_DOWN,
    ShutDown.BY_WINDOW: Ending.STOPPED,
}
"""What nobody ordered, by who stopped the machine; for all else it crashed."""

_CLOCK_TIMEOUT = 60
"""Seconds a resumed guest's agent gets to take the time."""

_BOOT, _EMULATED_BOOT = 8.0, 20.0
"""Seconds in which a guest that starts gets no vsock device: it may have another agent, and be on the way to it."""

_RESUMED = 1.0
"""The same for one that is resumed: its agents are there already."""


class RunningVm:
    """One live VM, as `lifecycle.running` gives it out."""

    def __init__(
        self,
        tmp: Path,
        folder: Path,
        plan: Plan,
        process: Process,
        monitor: Monitor,
        news: AsyncGenerator[News],
        log: RunLog,
        record: RunRecord,
    ) -> None:
        self.folder = folder
        """The VM's folder by a name that stays right when the VM is renamed."""
        self.plan = plan
        self.process = process
        self.monitor = monitor
        ram = plan.machine.ram
        self.vsock = VsockSlot(monitor, process.log_file, shared_memory=ram is not None and not ram.private)
        self.agents = GuestAgents(
            TartAgent(plan.own_agent, plan.identity.greet),
            QgaCommands(QemuGuestAgent(plan.agent), plan.config.mac_address),
            VsockAgent(self.vsock, _EMULATED_BOOT if plan.machine.accelerator.name == "tcg" else _BOOT),
        )
        self.sync = FolderSync(synced(plan.options.dirs), folder, self.agents, log.announce)
        """Folders of `--dir=…:sync`."""
        self.serial = SerialConsole(plan.serial, folder / "serial.log")
        self.web = WebConsole(plan, monitor, self.serial)
        self.clipboard = SharedClipboard(monitor, log.note, wanted=plan.clipboard)
        self.announce = log.announce
        """Notes a line in the run's log and tells it to whoever watches."""
        self.fingerprint = plan.fingerprint
        """What a state that is saved now depends on."""
        self.tmp = tmp
        self._power = Power(
            tmp=tmp,
            folder=folder,
            monitor=monitor,
            process=process,
            sync=self.sync,
            clipboard=self.clipboard,
            vsock=self.vsock,
            announce=log.announce,
        )
        self._news, self._log, self._record = news, log, record
        self.root_disk = RootDisk(monitor, parse_root_disk_options(plan.options.root_disk_options))
        self._shutdown: ShutDown | None = None
        self._silent = anyio.Event()
        """QEMU has said all that it will say."""

    @asynccontextmanager
    async def served(self, *, resumed: bool) -> AsyncGenerator[None]:
        """Let commands in through `control.sock` for the length of the block, and watch the network.

        Raises FileTrouble and AddressTaken when the socket cannot be bound, and what the network raises when it fails.
        """
        from tartlet.guest.service.service import serving

        async with AsyncExitStack() as held:
            tasks = await held.enter_async_context(anyio.create_task_group())
            held.callback(tasks.cancel_scope.cancel)
            listener = held.enter_context(listening(self.folder, "control.sock"))
            held.push_async_callback(self.vsock.close)
            await held.enter_async_context(serving(listener, self.agents))
            record.write(self.folder, self.plan.network.record)
            tasks.start_soon(kept_up, self.folder, self.plan, self._log)
            tasks.start_soon(self._listen)
            tasks.start_soon(self._end_without, self.plan.network.lost)
            tasks.start_soon(self._end_without, self.plan.folders.lost)
            tasks.start_soon(kept_short, self.folder, self._log)
            tasks.start_soon(self.serial.pump)
            tasks.start_soon(self.sync.run)
            if resumed:
                self.agents.vsock.leave_alone(_RESUMED)
                tasks.start_soon(self._correct_clock)
            yield

    async def _end_without(self, lost: Callable[[], Awaitable[UserError]]) -> None:
        raise await lost()

    @contextmanager
    def telling(self) -> Generator[None]:
        """Tell whoever watches what keeps the block from carrying an order out; the VM goes on."""
        try:
            yield
        except MonitorUnreachable as exc:
            log.debug("QEMU ended before it could obey: %s", exc)
        except UserError as exc:
            self.announce(str(exc))
            if exc.hint:
                self.announce(exc.hint)

    async def agent_answers(self) -> None:
        """Return when the guest's agent answers, and the folders that are synchronised are in the guest."""
        await self.agents.answers()
        await self.sync.settled()

    async def power_off(self) -> None:
        """Cut the power: the guest is not asked, its disks are flushed. Returns when QEMU has ended.

        What the guest changed in synchronised folders is brought back before; ordered again, that is given up.
        """
        await self._power.cut()

    async def press_power_button(self) -> None:
        """Ask the guest to shut down. Raises CommandFailed, MonitorUnreachable."""
        await self.monitor.powerdown()

    async def suspend(self) -> None:
        """Save the machine to the VM's folder and end it. When that fails it goes on.

        Raises CannotSuspend, SaveFailed, StillPlugged, CommandFailed, MonitorUnreachable.

        When the power is cut meanwhile, that wins. Asked again meanwhile, nothing more is done.
        """
        check_suspendable(self.plan)
        await self._power.suspend(lambda: self.fingerprint)

    @asynccontextmanager
    async def halted(self) -> AsyncGenerator[None]:
        """Halt the guest for the length of the block, its disks flushed; one caller at a time.

        Raises VmEnding, StillPlugged, CommandFailed, MonitorUnreachable.
        """
        async with self._power.halted():
            yield

    async def write_to_overlay(self, overlay: Path, base: Path, kind: str) -> None:
        """Let the halted guest write to `overlay`, which has taken the disk's place, and only read `base`.

        Both are in the VM's folder. Raises CommandFailed, MonitorUnreachable.
        """
        await self.root_disk.go_on_with(_plain(overlay), _plain(base), kind)

    async def grow_disk(self, size: int) -> None:
        """Give the guest's disk `size` bytes, more than it has. Raises CommandFailed, MonitorUnreachable."""
        async with self._power.kept():
            await self.monitor.grow(self.root_disk.node, size)
            self.fingerprint = state_file.with_disk_size(self.fingerprint, size)

    async def ended(self) -> LastRun:
        """Wait for the VM's end, note how it came to it, and tell."""
        await self._silent.wait()
        status = await self.process.wait()
        ending, detail = self._ending(status), ""
        if ending is Ending.GUEST_SHUT_DOWN:
            self.announce("guest has stopped the virtual machine")
        elif ending is Ending.CRASHED:
            self.process.log_file = self.folder / self.process.log_file.name  # the VM may have been renamed
            detail = str(self.process.crash())
            self.announce(f"guest has stopped the virtual machine due to error: {detail}")
        return self._record.finish(ending, status, detail)

    async def _listen(self) -> None:
        async for news in self._news:
            self._heard(news)
        self._silent.set()

    def _heard(self, news: News) -> None:
        match news:
            case ShutDown():
                self._shutdown = news
            case Restarted():
                self.agents.guest_started()
            case PortChanged(id=name, is_open=is_open):
                if name in _PORTS:
                    self.agents.port_changed(_PORTS[name], is_open=is_open)

    def _ending(self, status: int) -> Ending:
        if self._power.decided is not None:
            return self._power.decided
        if status:
            return Ending.CRASHED
        return _ENDINGS.get(self._shutdown, Ending.CRASHED)

    async def _correct_clock(self) -> None:
        """A resumed guest believes it is still the moment of its suspension."""
        try:
            with anyio.fail_after(_CLOCK_TIMEOUT):
                await self.agents.set_clock()
        except (UserError, TimeoutError) as exc:
            self._log.note(f"the guest's clock was not corrected: {str(exc) or 'its agent did not answer in time'}")


def _plain(path: Path) -> str:
    """The same file by a name that another process can use: ours may go through our descriptors."""
    return os.path.realpath(path)
