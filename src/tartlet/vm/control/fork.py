"""`tart fork`: copies of a running VM that go on from its present moment, memory included.

The source stands still once, however many forks there are: its memory is copied into a file that is never written
again, which every fork maps privately, so that they share each page until they write to it; its disk is shared as
snapshots share it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from tartlet.disk.clone import clone_disk
from tartlet.errors import UserError
from tartlet.hypervisor.nvram import NVRAM, OWN_VARIABLES
from tartlet.image.origin import NOTES
from tartlet.network.record import FILE_NAME as NETWORK
from tartlet.vm.control.ask import asked
from tartlet.vm.stored import config_file
from tartlet.vm.stored.clone import copied
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import checked_new_name
from tartlet.vm.stored.store import VmStore

_AT_ONCE = 4
"""Forks that are started side by side."""


class VmExists(UserError):
    """A name that is taken: forking replaces nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(f'VM "{name}" already exists', "choose another name, or delete it first")


class ForkFailed(UserError):
    """A fork that did not come to run; nothing is left of it."""

    def __init__(self, name: str, reason: str, hint: str | None = None) -> None:
        super().__init__(f'fork "{name}" did not start: {reason}', hint)
        self.name = name


@dataclass(frozen=True, slots=True)
class _Moment:
    """The source, captured: what every fork begins with."""

    template: VmFolder
    state: int
    ram: int | None
    mac: str
    options: Mapping[str, Any]


async def fork(store: VmStore, source: str, names: Sequence[str]) -> list[VmFolder | UserError]:
    """Copies of the running VM `source` that run in the background when this returns.

    For each name, in order, the VM or the error that stopped it: the others are not affected. Each fork has a MAC
    address, an address, a host name and random numbers of its own; a guest without an agent learns of its new MAC
    address when it boots next. Linux only. Raises what concerns them all: VmMissing, VmNotRunning, SupervisorGone,
    Refused (for instance because the source has a disk that cannot be shared).
    """
    vm = store.open(source)
    results: dict[int, VmFolder | UserError] = {}
    async with asked(vm, "fork") as answer:
        state, *ram = answer.descriptors
        told = answer.told
        template = VmFolder(source, Path(told["template"]))
        moment = _Moment(template, state, ram[0] if ram else None, str(told["mac"]), told["options"])
        limit = anyio.CapacityLimiter(_AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for number, name in enumerate(names):
                tasks.start_soon(_noted, results, number, partial(_forked, store, vm, moment, name, limit))
    await anyio.to_thread.run_sync(_note_format, vm, str(told["disk_format"]))
    return [results[number] for number in range(len(names))]


async def _noted(
    results: dict[int, VmFolder | UserError], number: int, work: Callable[[], Awaitable[VmFolder]]
) -> None:
    try:
        results[number] = await work()
    except UserError as exc:
        results[number] = exc


async def _forked(
    store: VmStore, source: VmFolder, moment: _Moment, name: str, limit: anyio.CapacityLimiter
) -> VmFolder:
    async with limit:
        fork = await anyio.to_thread.run_sync(_made, store, source, moment, name)
        try:
            await _started(store, fork, moment)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(store.delete, name)
            raise
    return fork


def _made(store: VmStore, source: VmFolder, moment: _Moment, name: str) -> VmFolder:
    checked_new_name(name)
    template = moment.template
    with store.work_folder() as work, store.alone():
        if os.path.lexists(store.folder(name).path):
            raise VmExists(name)
        config = template.config()
        report = clone_disk(template.path, work, running=False, declared=config.disk_format)
        for part in (NVRAM, OWN_VARIABLES, NETWORK):
            if os.path.exists(template.path / part):
                copied(template.path / part, work)
        for part in (source.seed_path.name, *NOTES):
            if os.path.exists(source.path / part):
                copied(source.path / part, work)
        config_file.create(work / "config.json", replace(config.with_new_mac(), disk_format=str(report.format)))
        return store.install(work, name)


async def _started(store: VmStore, fork: VmFolder, moment: _Moment) -> None:
    """Start the fork's supervisor and wait until the fork runs. Raises ForkFailed."""
    home = os.fspath(store.home.root.absolute())
    reading, writing = os.pipe()
    with closing(os.fdopen(reading, "rb", buffering=0)) as heard:
        try:
            order = {
                "home": home, "name": fork.name, "ready": writing, "state": moment.state,
                "ram": moment.ram, "mac": moment.mac, "options": moment.options,
            }  # fmt: skip
            inherited = [writing, moment.state, *([] if moment.ram is None else [moment.ram])]
            child = await anyio.to_thread.run_sync(_spawned, fork, order, inherited)
        finally:
            os.close(writing)
        try:
            await anyio.wait_readable(heard)
        except BaseException:
            child.terminate()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(child.wait)  # until then it holds the VM, which is to be deleted
            raise
        said = heard.read(65536)
    told = json.loads(said) if said else {"error": "its supervisor died", "hint": f"look at {fork.run_log_path}"}
    if "error" in told:
        await anyio.to_thread.run_sync(child.wait)
        raise ForkFailed(fork.name, str(told["error"]), told.get("hint"))


def _spawned(fork: VmFolder, order: Mapping[str, object], inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    with open(fork.run_log_path, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tartlet.vm.running.forked", json.dumps(order)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=inherited,
            start_new_session=True,
        )


def _note_format(vm: VmFolder, kind: str) -> None:
    """The supervisor cannot: opening the file would cost it its lock."""
    config = vm.config()
    if config.disk_format != kind:
        config_file.write(vm.config_path, replace(config, disk_format=kind))
