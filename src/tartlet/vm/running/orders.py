"""What other processes may ask of a running VM, by the words of `manage.sock`."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, cast

import anyio
import anyio.to_thread

from tartlet.console.hub import ConsoleReader
from tartlet.disk.chain import chain_of
from tartlet.host.scratch import scratch_folder
from tartlet.host.sockets import listening
from tartlet.hypervisor import state_file
from tartlet.units import MIB
from tartlet.vm.control.manage import SOCKET, BadOrder, Client, obeying
from tartlet.vm.control.snapshot import FoldersShared, place
from tartlet.vm.planning.suspendable import check_suspendable
from tartlet.vm.running.capture import captured
from tartlet.vm.running.fork_source import fork_options, memory_captured
from tartlet.vm.running.live import RunningVm
from tartlet.vm.stored.folder import STATE
from tartlet.vm.stored.snapshot_names import checked_tag

log = logging.getLogger(__name__)

_PIECE = 64 << 10
_LAST_WORDS = 5.0
"""Seconds a guest gets to take what was typed by somebody who has gone."""


@asynccontextmanager
async def taking_orders(vm: RunningVm) -> AsyncGenerator[None]:
    """Let other processes give orders through the VM's `manage.sock`, for the length of the block.

    Raises FileTrouble, AddressTaken when it cannot be bound.
    """
    orders = {
        "screenshot": _screenshot,
        "input": _input,
        "console": _console,
        "suspend": _suspend,
        "snapshot": _snapshot,
        "fork": _fork,
        "grow": _grow,
        "balloon": _balloon,
        "sync": _sync,
        "filter": _filter,
        "web": _web,
    }
    with listening(vm.folder, SOCKET) as listener:
        async with obeying(listener, {name: partial(order, vm) for name, order in orders.items()}):
            yield


async def _screenshot(vm: RunningVm, client: Client) -> None:
    with tempfile.NamedTemporaryFile() as picture:
        into = os.open(picture.name, os.O_WRONLY | os.O_CLOEXEC)  # QEMU takes none that can also be read
        try:
            await vm.monitor.screenshot(into)
        finally:
            os.close(into)
        await client.answer([picture.fileno()])


async def _input(vm: RunningVm, client: Client) -> None:
    events = client.words.get("events")
    if not isinstance(events, list):
        raise BadOrder("input without events")
    await vm.monitor.send_input(cast("list[dict[str, Any]]", events))
    await client.answer()


async def _suspend(vm: RunningVm, client: Client) -> None:
    """Answered before it is done: the client does not wait for the memory to be written."""
    check_suspendable(vm.plan)
    await client.answer()
    with vm.telling():
        await vm.suspend()


async def _snapshot(vm: RunningVm, client: Client) -> None:
    tag = checked_tag(str(client.words.get("tag")))
    if vm.plan.folders.devices:
        raise FoldersShared(str(client.words.get("name")))
    with scratch_folder(vm.tmp) as work:
        await captured(vm, work, lambda: state_file.save(vm.monitor, work / STATE, vm.fingerprint))
        await anyio.to_thread.run_sync(place, work, vm.folder, str(client.words.get("name")), tag)
    vm.announce(f"Snapshot {tag} was made.")
    disk = chain_of(vm.folder, vm.plan.config.disk_format).top
    await client.answer(disk_format=str(disk.format))


async def _fork(vm: RunningVm, client: Client) -> None:
    """Captured into a folder that lasts as long as the client stays connected."""
    options = fork_options(vm.plan.options)
    with scratch_folder(vm.tmp) as work, memory_captured(vm) as memory:
        template = work / "vm"  # the work folder itself is locked, and a disk is cloned under a lock
        os.mkdir(template)
        await captured(vm, template, memory.save)
        disk = chain_of(vm.folder, vm.plan.config.disk_format).top
        await client.answer(
            memory.descriptors(),
            template=str(template),
            mac=vm.plan.config.mac_address,
            options=asdict(options),
            disk_format=str(disk.format),
        )
        while await asyncio.get_running_loop().sock_recv(client.sock, _PIECE):
            pass


async def _sync(vm: RunningVm, client: Client) -> None:
    await client.answer(folders=[asdict(done) for done in await vm.sync.now()])


async def _grow(vm: RunningVm, client: Client) -> None:
    await vm.grow_disk(_size_in(client))
    await client.answer()


async def _balloon(vm: RunningVm, client: Client) -> None:
    size, most = _size_in(client), vm.plan.machine.memory
    await vm.monitor.balloon(min(size, most))
    why = f"it was started with {most // MIB} MB" if size > most else ""
    if vm.plan.machine.ram is not None and vm.plan.machine.ram.private:
        why = "a fork cannot give memory back"
    await client.answer(now=not why, why=why)


async def _filter(vm: RunningVm, client: Client) -> None:
    ask = vm.plan.network.filter_state
    state = asdict(await ask()) if ask else None
    await client.answer(mac=vm.plan.config.mac_address, filter=state)


async def _web(vm: RunningVm, client: Client) -> None:
    await client.answer(link=await vm.web.link(to_open=bool(client.words.get("to_open"))))


def _size_in(client: Client) -> int:
    size = client.words.get("size")
    if not isinstance(size, int) or size <= 0:
        raise BadOrder("an order without a size")
    return size


async def _console(vm: RunningVm, client: Client) -> None:
    with vm.serial.attached() as reader:
        await client.answer()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_typed, vm, client, tasks.cancel_scope)
            if not await _shown(reader, client):
                await anyio.sleep(_LAST_WORDS)  # what was typed before leaving is for the guest all the same
            tasks.cancel_scope.cancel()


async def _shown(reader: ConsoleReader, client: Client) -> bool:
    """Show the client what the guest writes; whether that was all, else the client has gone."""
    try:
        while (piece := await reader.next()) is not None:
            await asyncio.get_running_loop().sock_sendall(client.sock, piece)
    except ConnectionError:
        return False
    return True


async def _typed(vm: RunningVm, client: Client, scope: anyio.CancelScope) -> None:
    """Pass on what the client types, until it leaves."""
    piece = client.rest
    try:
        while piece or (piece := await asyncio.get_running_loop().sock_recv(client.sock, _PIECE)):
            await vm.serial.type(piece)
            piece = b""
    except ConnectionError:
        log.debug("the console's client or the guest has gone")
    scope.cancel()
