"""Orders from other processes to the supervisor of a running VM: the client's side of `manage.sock`."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import anyio

from tartlet.errors import UserError
from tartlet.host.sockets import connected
from tartlet.vm.control.manage import SOCKET
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.store import VmNotRunning

_START_PATIENCE = 10.0
"""Seconds a VM that is being started gets until it takes orders."""
_MOST_DESCRIPTORS = 16


class Refused(UserError):
    """The supervisor did not do what it was asked for, in its words."""

    def __init__(self, message: str, hint: str | None, exit_code: int) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


class SupervisorGone(UserError):
    """The VM ended before it answered."""

    def __init__(self, name: str) -> None:
        super().__init__(f'VM "{name}" ended before it answered', f"`tart wait {name}` tells how it ended")


class StillStarting(UserError):
    """The VM has not come so far that it takes orders: a large saved state may be on its way into memory."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'VM "{name}" is still being started and takes no orders yet',
            f"repeat this in a while; `tart logs {name}` shows how far it is, `tart stop {name}` ends it",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of an order."""

    told: Mapping[str, Any]
    descriptors: tuple[int, ...]
    """Closed when the block ends."""
    sock: socket.socket
    """The connection, which belongs to the order now."""
    rest: bytes
    """What has arrived on it already."""


@asynccontextmanager
async def asked(vm: VmFolder, order: str, **words: object) -> AsyncGenerator[Answer]:
    """Give the supervisor an order; the connection lasts as long as the block.

    Raises VmNotRunning, StillStarting, SupervisorGone, Refused, and FileTrouble when the socket may not be used.
    """
    sock = await _connection(vm)
    descriptors: list[int] = []
    try:
        try:
            line = json.dumps({"order": order, **words}).encode() + b"\n"
            await asyncio.get_running_loop().sock_sendall(sock, line)
            told, rest = await _reply(sock, descriptors)
        except ConnectionError as exc:
            raise SupervisorGone(vm.name) from exc
        if "error" in told:
            raise Refused(str(told["error"]), told.get("hint"), int(told.get("code", 1)))
        yield Answer(told=told, descriptors=tuple(descriptors), sock=sock, rest=rest)
    finally:
        sock.close()
        for descriptor in descriptors:
            os.close(descriptor)


async def _connection(vm: VmFolder) -> socket.socket:
    deadline = time.monotonic() + _START_PATIENCE
    while True:
        try:
            return connected(vm.path, SOCKET)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as exc:
            if not vm.supervisor():
                raise VmNotRunning(vm.name) from exc
            if time.monotonic() > deadline:
                raise StillStarting(vm.name) from exc
        except PermissionError as exc:
            raise UserError(f'VM "{vm.name}" runs as another user', "do this as that user, or as root") from exc
        await anyio.sleep(0.05)


async def _reply(sock: socket.socket, descriptors: list[int]) -> tuple[dict[str, Any], bytes]:
    held = b""
    while b"\n" not in held:
        await anyio.wait_readable(sock)
        piece, found, _, _ = socket.recv_fds(sock, 65536, _MOST_DESCRIPTORS)
        for descriptor in found:
            os.set_inheritable(descriptor, False)
        descriptors.extend(found)
        if not piece:
            raise ConnectionResetError("it hung up")
        held += piece
    line, _, rest = held.partition(b"\n")
    return cast("dict[str, Any]", json.loads(line)), rest
