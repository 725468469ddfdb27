"""The side of the machine that forks are made of: its memory and devices in two files, and what its forks run with."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import anyio.to_thread

from tartlet.errors import UserError
from tartlet.host.memory import frozen_copy, memory_file
from tartlet.hypervisor import state_file
from tartlet.hypervisor.disk_options import parse_disk_option
from tartlet.share.arguments import grouped
from tartlet.vm.planning.options import RunOptions
from tartlet.vm.running.live import RunningVm


class CannotFork(UserError):
    """A machine of which there can be only one."""


class MemoryCopy:
    """A machine's memory and devices; filled by `save` while the machine is halted."""

    def __init__(self, vm: RunningVm, state: int, ram: int | None) -> None:
        self._vm, self._state, self._ram = vm, state, ram

    async def save(self) -> None:
        """Raises CommandFailed, MonitorUnreachable, CannotFork."""
        await state_file.stream(self._vm.monitor, self._state, with_memory=self._ram is None)
        own = self._vm.plan.machine.ram
        if self._ram is None or own is None:
            return
        try:
            await anyio.to_thread.run_sync(frozen_copy, own.descriptor, self._ram)
        except OSError as exc:
            raise CannotFork(f"the memory could not be copied: {exc.strerror}") from exc

    def descriptors(self) -> list[int]:
        """The devices' state, and the memory unless it is in there too."""
        return [self._state] if self._ram is None else [self._state, self._ram]


@contextmanager
def memory_captured(vm: RunningVm) -> Generator[MemoryCopy]:
    """Files for a copy of the machine's memory, for the length of the block. Raises CannotFork.

    A fork's own memory is private to its QEMU: forks of a fork get it through the state, and share none of it.
    """
    ram = vm.plan.machine.ram
    files: list[int] = []
    try:
        for name, size in (("state", 0), *([] if ram is None or ram.private else [("forks", vm.plan.machine.memory)])):
            file = memory_file(name, size)
            if file is None:
                raise CannotFork("VMs can only be forked on Linux")
            files.append(file)
        yield MemoryCopy(vm, files[0], files[1] if len(files) > 1 else None)
    finally:
        for file in files:
            os.close(file)


def fork_options(options: RunOptions) -> RunOptions:
    """What forks of a machine with these options run with: the same devices, and nothing that only one can have.

    Raises CannotFork.
    """
    if any(not parse_disk_option(disk).options.read_only for disk in options.disks):
        raise CannotFork("the VM has a --disk that it may write to", "attach it read-only with :ro, or not at all")
    if len(options.net_bridged) > 1:
        reason = (
            "the VM has several --net-bridged cards, of which a fork's guest changes the first one's MAC address only"
        )
        raise CannotFork(reason, "run it with one")
    if grouped(options.dirs):
        raise CannotFork(
            "the VM shares a folder with the host, which QEMU cannot save", "run it without --dir, or with :sync"
        )
    return replace(
        options,
        no_graphics=True,
        graphics=False,
        vnc=False,
        vnc_experimental=False,
        web=False,
        web_port=None,
        serial=options.serial or options.serial_path is not None,
        serial_path=None,
        dirs=(),
        net_softnet_expose=None,
        net_softnet_control_fd=None,
    )
