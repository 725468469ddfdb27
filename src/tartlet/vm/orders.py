"""What other processes may ask of a running VM, by the words of `manage.sock`."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import anyio

from tartlet.console.hub import ConsoleReader
from tartlet.host.sockets import listening
from tartlet.vm.live import RunningVm
from tartlet.vm.manage import SOCKET, BadOrder, Client, obeying

log = logging.getLogger(__name__)

_PIECE = 64 << 10
_LAST_WORDS = 5.0
"""Seconds a guest gets to take what was typed by somebody who has gone."""


@asynccontextmanager
async def taking_orders(vm: RunningVm) -> AsyncGenerator[None]:
    """Let other processes give orders through the VM's `manage.sock`, for the length of the block.

    Raises FileTrouble, AddressTaken when it cannot be bound.
    """
    orders = {"screenshot": _screenshot, "input": _input, "console": _console}
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
