"""Everything one live VM holds, from its first lock to its last; released in reverse order."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

import anyio

from tartlet.errors import FileTrouble, UserError
from tartlet.host.files import removed, sync_folder
from tartlet.host.locks import try_file_lock, try_process_lock
from tartlet.hypervisor import accel, qmp, state_file
from tartlet.hypervisor.accel import Accelerator
from tartlet.hypervisor.command_line import command_line
from tartlet.hypervisor.machine_news import machine_news
from tartlet.hypervisor.process import Process, QemuCrashed, spawned
from tartlet.hypervisor.qmp import Monitor, MonitorUnreachable
from tartlet.hypervisor.state_file import SavedState
from tartlet.vm.planning.inherited import Inherited
from tartlet.vm.planning.options import RunOptions
from tartlet.vm.planning.own_mac import with_own_mac
from tartlet.vm.planning.plan import Plan, planned
from tartlet.vm.planning.share import shared
from tartlet.vm.running import console, web
from tartlet.vm.running.live import RunningVm
from tartlet.vm.running.orders import taking_orders
from tartlet.vm.running.run_log import begun_log
from tartlet.vm.stored.ended import recorded
from tartlet.vm.stored.folder import STATE, VmFolder
from tartlet.vm.stored.store import VmMissing, VmStore


class VmAlreadyRunning(UserError):
    """Another process runs this VM."""

    exit_code = 2

    def __init__(self, name: str) -> None:
        super().__init__(
            f'VM "{name}" is already running',
            f"stop it with `tart stop {name}`, or clone it and run the copy; wait, if it is being pushed or exported",
        )


@asynccontextmanager
async def running(
    store: VmStore,
    name: str,
    options: RunOptions,
    announce: Callable[[str], None],
    *,
    inherited: Inherited | None = None,
) -> AsyncGenerator[RunningVm]:
    """Boot a VM, or resume a suspended one, for the length of the block. What it holds stands here, top to bottom.

    With `inherited` it goes on as a fork of another machine.
    Raises VmMissing, VmIncomplete, VmAlreadyRunning, MacTaken, StateRefused, QemuCrashed and what else a part refuses.
    """
    async with AsyncExitStack() as held:
        folders = await held.enter_async_context(shared(store.home, options.dirs, announce))
        async with _nobody_else_starts(store):
            vm = store.find(name)
            if vm.supervisor():
                raise VmAlreadyRunning(name)
            log = held.enter_context(begun_log(vm, announce))
            plan = await held.enter_async_context(
                with_own_mac(
                    store,
                    vm,
                    lambda config: planned(store.home, vm, config, options, folders, log.note, inherited),
                    log.announce,
                )
            )
            state = held.enter_context(_saved_state(vm, plan, inherited))
            folder = held.enter_context(_locked(vm))
            _sweep(folder)
            record = held.enter_context(recorded(folder))
        process, monitor = await held.enter_async_context(
            _powered_on(vm, plan, restored=state is not None, announce=log.announce)
        )
        news = held.enter_context(machine_news(monitor))
        if state is not None:
            await state_file.restore(monitor, state, with_memory=inherited is None or inherited.ram is None)
        async with _crash_told(process):
            await console.opened(monitor, options, plan.network.record.address, log)
        live = RunningVm(store.home.tmp, folder, plan, process, monitor, news, log, record)
        await live.clipboard.plug_in()
        await held.enter_async_context(live.served(resumed=state is not None))
        await held.enter_async_context(live.web.offered())
        await held.enter_async_context(taking_orders(live))
        if options.web:
            await web.opened(live.web, log, on_desktop=not (options.no_graphics or options.plain_output))
        if state is not None and inherited is None:
            _forget(folder)  # when nothing can fail any more
        async with _crash_told(process):
            await (monitor.cont() if inherited is None else _settled(live, name, inherited))
        yield live


async def _settled(live: RunningVm, name: str, inherited: Inherited) -> None:
    from tartlet.vm.running.settle import (
        settled,  # brings the client of the guest's agent, which every other run does without
    )

    await settled(live, name, inherited)


@asynccontextmanager
async def _nobody_else_starts(store: VmStore) -> AsyncGenerator[None]:
    """The home's lock. Polled, because a thread that waits for it could not be given up when Ctrl+C comes."""
    while (lock := try_file_lock(store.home.root)) is None:  # noqa: ASYNC110 - the kernel has no event for it
        await anyio.sleep(0.02)
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def _saved_state(vm: VmFolder, plan: Plan, inherited: Inherited | None) -> Generator[SavedState | None]:
    if inherited is not None:
        yield SavedState(descriptor=inherited.state, size=0, saved=time.time())
        return
    if not os.path.lexists(vm.state_path):
        yield None
        return
    state = state_file.open_for_resume(vm.state_path, plan.fingerprint)
    try:
        yield state
    finally:
        os.close(state.descriptor)


@contextmanager
def _locked(vm: VmFolder) -> Generator[Path]:
    """The lock that means running. From here on nothing in this process may open `config.json`: closing it unlocks.

    Gives the VM's folder by a name that stays right when the VM is renamed.
    """
    lock = try_process_lock(vm.config_path)
    if lock is None:
        raise VmAlreadyRunning(vm.name)
    with closing(os.fdopen(lock, "rb")):
        if not _is_still(vm.config_path, lock):
            raise VmMissing(vm.name)
        with vm.opened() as folder:
            by_descriptor = Path(f"/proc/self/fd/{folder}")
            yield by_descriptor if by_descriptor.exists() else vm.path


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the locked file is the one the name means now: the VM may have been replaced in between."""
    return path.exists() and os.path.samestat(os.stat(path), os.fstat(descriptor))


def _sweep(folder: Path) -> None:
    """Remove notes that a killed supervisor had half written. Only the holder of the VM's lock writes any."""
    for name in os.listdir(folder):
        if name.startswith((".last-run.json.", ".network.json.", ".machine.")):
            removed(folder / name)


@asynccontextmanager
async def _powered_on(
    vm: VmFolder, plan: Plan, *, restored: bool, announce: Callable[[str], None]
) -> AsyncGenerator[tuple[Process, Monitor]]:
    """QEMU with its processors halted. One that refuses the host's CPU model gets a second try with a named one."""
    chosen = plan.machine.accelerator
    async with AsyncExitStack() as held:
        if chosen.notice:
            announce(chosen.notice)
        try:
            live = await held.enter_async_context(_attempt(vm, plan, chosen, restored=restored))
        except QemuCrashed as crash:
            named = chosen.with_named_cpu()
            if named is None or not accel.host_cpu_refused(crash.tail):
                raise
            announce(named.notice or named.reason)
            live = await held.enter_async_context(_attempt(vm, plan, named, restored=restored))
        for end in plan.lent:
            end.close()
        yield live


@asynccontextmanager
async def _attempt(
    vm: VmFolder, plan: Plan, accelerator: Accelerator, *, restored: bool
) -> AsyncGenerator[tuple[Process, Monitor]]:
    # Connected before QEMU exists: nothing has to be waited for, and no path can be too long.
    ours, theirs = socket.socketpair()
    async with AsyncExitStack() as held:
        held.callback(ours.close)
        held.callback(theirs.close)
        machine = plan.machine_for(theirs.fileno(), accelerator, restored=restored)
        argv = [*command_line(plan.qemu, machine), "-S"]
        process = await held.enter_async_context(
            spawned(argv, log_file=vm.qemu_log_path, pass_fds=machine.descriptors())
        )
        theirs.close()
        async with _crash_told(process):
            monitor = await held.enter_async_context(qmp.connected(ours))
        yield process, monitor


@asynccontextmanager
async def _crash_told(process: Process) -> AsyncGenerator[None]:
    """A monitor that falls silent in the block means that QEMU has ended: raises QemuCrashed, which tells how."""
    try:
        yield
    except MonitorUnreachable:
        with anyio.move_on_after(1):
            await process.wait()
            raise process.crash() from None
        raise


def _forget(folder: Path) -> None:
    """Delete the saved state before its guest goes on: once the disk changes, going back would ruin it."""
    state = folder / STATE
    try:
        removed(state)
        sync_folder(folder)
    except OSError as exc:
        raise FileTrouble("cannot delete the saved state", state, exc) from exc
