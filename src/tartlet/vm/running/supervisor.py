"""`tart run`: one VM from its first lock to its end, obeying signals on the way.

SIGINT cuts the power, SIGUSR1 suspends, SIGUSR2 presses the power button. SIGTERM, SIGHUP and SIGKILL end this process
at once, and QEMU with it; but where folders are synchronised, the first two mean the same as SIGINT.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import cast

import anyio

from tartlet.errors import UserError
from tartlet.share.arguments import synced
from tartlet.vm.planning.inherited import Inherited
from tartlet.vm.planning.options import RunOptions
from tartlet.vm.running.lifecycle import running
from tartlet.vm.running.live import RunningVm
from tartlet.vm.stored.ended import Ending, LastRun
from tartlet.vm.stored.store import VmStore

log = logging.getLogger(__name__)


_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_AGENT_PAUSE = 1
"""Seconds between two attempts to speak to an agent that failed."""


def nothing() -> None:
    """The callback of those who do not want to be called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Whom the supervisor tells what happens."""

    announce: Callable[[str], None]
    """Gets each line that is meant for whoever watches the run."""
    on_running: Callable[[], None] = nothing
    """The VM runs and its control socket listens."""
    on_ready: Callable[[], None] = nothing
    """The guest's agent answers."""


async def supervise(
    store: VmStore, name: str, options: RunOptions, told: Told, *, inherited: Inherited | None = None
) -> LastRun:
    """Run the VM to its end and tell how it ended. The process must have no other use for the signals.

    Raises VmMissing, VmIncomplete, VmAlreadyRunning, and what a part of the VM raises that cannot be had.
    """
    to_end = _TO_END if synced(options.dirs) else _TO_END[:1]
    with anyio.open_signal_receiver(*to_end, signal.SIGUSR1, signal.SIGUSR2) as signals:
        async with anyio.create_task_group() as tasks:
            orders = _Orders(told.announce, tasks.cancel_scope)
            tasks.start_soon(orders.obey, signals)
            async with running(store, name, options, told.announce, inherited=inherited) as vm:
                orders.begin(vm)
                told.on_running()
                tasks.start_soon(_report_readiness, vm, told.on_ready)
                ended = await vm.ended()
            tasks.cancel_scope.cancel()
            return ended
    told.announce("Stopping VM...")  # the order came before the VM ran
    return LastRun(ending=Ending.STOPPED, exit_code=0)


@dataclass(slots=True)
class _Orders:
    """What signals mean, before and while the VM runs."""

    announce: Callable[[str], None]
    start: anyio.CancelScope
    """Cancelled to give the start up."""
    _vm: RunningVm | None = field(default=None)
    _running: anyio.Event = field(default_factory=anyio.Event)

    def begin(self, vm: RunningVm) -> None:
        """The VM runs: orders are for it from now on, those that had to wait for it too."""
        self._vm = vm
        self._running.set()

    async def obey(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Carry orders out side by side: power can be cut while a machine is being saved."""
        async with anyio.create_task_group() as tasks:
            async for number in signals:
                if self._vm is None and number in _TO_END:
                    self.start.cancel()
                    return
                tasks.start_soon(self._carry_out, number)

    async def _carry_out(self, number: signal.Signals) -> None:
        await self._running.wait()
        vm = cast("RunningVm", self._vm)
        with vm.telling():
            if number in _TO_END:
                vm.announce("Stopping VM...")
                await vm.power_off()
            elif number is signal.SIGUSR1:
                await vm.suspend()
            else:
                vm.announce("Requesting guest OS to stop...")
                await vm.press_power_button()


async def _report_readiness(vm: RunningVm, on_ready: Callable[[], None]) -> None:
    """Say once that the agent answers. One that opens its port and then fails is asked again."""
    while True:
        try:
            await vm.agent_answers()
        except UserError as exc:
            log.debug("the guest's agent does not answer yet: %s", exc)
            await anyio.sleep(_AGENT_PAUSE)
        else:
            break
    on_ready()
