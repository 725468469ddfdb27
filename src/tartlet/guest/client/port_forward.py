"""`tart port-forward`: a port of this host that leads to a port of the guest, without its network."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import SocketAttribute, SocketStream

from tartlet.errors import FileTrouble, UserError
from tartlet.guest.rpc.channel import connect

log = logging.getLogger(__name__)

_PIECE = 64 << 10
_AT_ONCE = 150
"""Connections carried side by side; more wait. The guest's agent takes 200 requests."""

_PATIENCE = 5


@asynccontextmanager
async def forwarded(
    folder: Path, port: int, *, address: str = "127.0.0.1", local_port: int = 0, note: Callable[[str], None]
) -> AsyncGenerator[int]:
    """Lead connections to `address` on to a port of the guest's loopback for the length of the block.

    `folder` is the running VM's. Gives the local port, a free one for 0. A connection that cannot be carried on is
    closed, and `note` gets the reason, then what to do. Raises FileTrouble when the local port cannot be had.
    """
    try:
        listener = await anyio.create_tcp_listener(local_host=address, local_port=local_port)
    except OSError as exc:
        raise FileTrouble("cannot listen on", f"{address}:{local_port}", exc, "choose another local port") from exc
    async with listener, anyio.create_task_group() as tasks:
        limit = anyio.CapacityLimiter(_AT_ONCE)

        async def serve(local: SocketStream) -> None:
            async with local, limit:
                try:
                    await _carry(folder, port, local)
                except UserError as exc:
                    note(str(exc))
                    if exc.hint:
                        note(exc.hint)

        tasks.start_soon(listener.serve, serve)
        yield int(listener.extra(SocketAttribute.local_port))  # noqa: S610 - anyio's, not Django's
        tasks.cancel_scope.cancel()


async def _carry(folder: Path, port: int, local: SocketStream) -> None:
    """Each has a channel of its own, so that one that nobody reads from cannot hold the others up."""

    async def received() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield await local.receive(_PIECE)
        except anyio.EndOfStream:
            return

    async def send(data: bytes) -> None:
        await (local.send(data) if data else local.send_eof())

    try:
        async with connect(folder, _PATIENCE) as channel:
            await channel.join(port, received(), send)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
        log.debug("whoever connected has gone: %r", exc)
