"""A copy of a VM while it runs: its guest stands still for a moment, and its blocks are shared, not copied."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread

from tartlet.disk.beside import shared_with
from tartlet.host.locks import try_file_lock
from tartlet.hypervisor.nvram import NVRAM, OWN_VARIABLES
from tartlet.network import record
from tartlet.vm.running.live import RunningVm
from tartlet.vm.stored import config_file
from tartlet.vm.stored.clone import copied


async def captured(vm: RunningVm, into: Path, save_memory: Callable[[], Awaitable[object]]) -> None:
    """Put into the empty folder `into` what makes this VM at this moment; `save_memory` is called while it is halted.

    The folder gets a configuration, a disk, firmware variables, and the network's record. When something fails the
    guest goes on. Raises VmEnding, CommandFailed, MonitorUnreachable, NoSpace, FileTrouble, what `save_memory` raises.
    """
    config = vm.plan.config
    async with _disk_files_locked(vm.folder), vm.halted():
        kind = await shared_with(vm.folder, config.disk_format, into, vm.write_to_overlay)
        await anyio.to_thread.run_sync(_copy_variables, vm.folder, into)
        await save_memory()
    config_file.create(into / "config.json", replace(config, disk_format=str(kind)))
    record.write(into, vm.plan.network.record)


def _copy_variables(folder: Path, into: Path) -> None:
    for name in (NVRAM, OWN_VARIABLES):
        if os.path.exists(folder / name):
            copied(folder / name, into)


@asynccontextmanager
async def _disk_files_locked(folder: Path) -> AsyncGenerator[None]:
    """Polled: a thread that waits for the lock could not be given up."""
    while (lock := try_file_lock(folder)) is None:  # noqa: ASYNC110 - the kernel has no event for it
        await anyio.sleep(0.02)
    try:
        yield
    finally:
        os.close(lock)
