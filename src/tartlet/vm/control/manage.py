"""`manage.sock`: how other processes of the same user reach the supervisor of a running VM.

A client sends one line of JSON, `{"order": "screenshot", …}`, and gets one back: `{"ok": true, …}`, perhaps with
descriptors (SCM_RIGHTS), or `{"error": …, "hint": …, "code": …}`. After that the connection belongs to the order: the
console's is a stream of bytes from then on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio

from tartlet.errors import UserError

log = logging.getLogger(__name__)

SOCKET = "manage.sock"

_LONGEST_ORDER = 1 << 20
_PATIENCE = 30.0
"""Seconds a client gets to say what it wants."""
_MOST_CLIENTS = 100


class BadOrder(UserError):
    """A client that does not say what this supervisor understands."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the supervisor of the VM does not understand {what}", "restart the VM with this tart")


class Client:
    """One connection, after its order has been read."""

    def __init__(self, sock: socket.socket, words: Mapping[str, Any], rest: bytes) -> None:
        self.sock = sock
        """Non-blocking; closed when the order has been carried out."""
        self.words = words
        self.rest = rest
        """What came after the order."""
        self.answered = False

    async def answer(self, descriptors: Sequence[int] = (), **told: object) -> None:
        """Say that it was done, and what came of it. Raises OSError when the client has gone."""
        await self._say({"ok": True, **told}, descriptors)

    async def refuse(self, error: UserError) -> None:
        """Say why it was not done, unless an answer has been given."""
        if not self.answered:
            await self._say({"error": str(error), "hint": error.hint, "code": error.exit_code}, ())

    async def _say(self, document: Mapping[str, object], descriptors: Sequence[int]) -> None:
        self.answered = True
        line = json.dumps(document).encode() + b"\n"
        sent = socket.send_fds(self.sock, [line], descriptors) if descriptors else 0
        await asyncio.get_running_loop().sock_sendall(self.sock, line[sent:])


Order = Callable[[Client], Awaitable[None]]


@asynccontextmanager
async def obeying(listener: socket.socket, orders: Mapping[str, Order]) -> AsyncGenerator[None]:
    """Carry out the orders of clients, side by side, for the length of the block. `listener` is non-blocking."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_accept, listener, orders)
        yield
        tasks.cancel_scope.cancel()


async def _accept(listener: socket.socket, orders: Mapping[str, Order]) -> None:
    room = anyio.Semaphore(_MOST_CLIENTS)
    async with anyio.create_task_group() as tasks:
        while True:
            async with room:
                pass  # there is room for one more
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            tasks.start_soon(_served, sock, orders, room)


async def _served(sock: socket.socket, orders: Mapping[str, Order], room: anyio.Semaphore) -> None:
    async with room:
        with sock:
            try:
                await _obeyed(sock, orders)
            except OSError as exc:  # the client has gone
                log.debug("a client left: %s", exc)
            except Exception:
                # A defect in one order is no reason for the guest to lose its machine.
                log.exception("an order failed in a way that nobody foresaw")


async def _obeyed(sock: socket.socket, orders: Mapping[str, Order]) -> None:
    client = Client(sock, {}, b"")
    try:
        with anyio.fail_after(_PATIENCE):
            line, client.rest = await line_from(sock)
        client.words = _understood(line)
        name = str(client.words.get("order"))
        if name not in orders:
            raise BadOrder(f"the order {name!r}")
        await orders[name](client)
    except UserError as exc:
        await client.refuse(exc)
    except TimeoutError:
        log.debug("a client said nothing")


def _understood(line: bytes) -> Mapping[str, Any]:
    try:
        document: Any = json.loads(line)
    except ValueError as exc:
        raise BadOrder("what is no JSON") from exc
    if not isinstance(document, dict):
        raise BadOrder("what is no JSON object")
    return cast("dict[str, Any]", document)


async def line_from(sock: socket.socket) -> tuple[bytes, bytes]:
    """The first line that arrives and what came after it. Raises BadOrder, ConnectionError."""
    held = b""
    while b"\n" not in held:
        piece = await asyncio.get_running_loop().sock_recv(sock, 65536)
        if not piece:
            raise ConnectionResetError("it hung up")
        held += piece
        if len(held) > _LONGEST_ORDER:
            raise BadOrder("an order of that length")
    line, _, rest = held.partition(b"\n")
    return line, rest
