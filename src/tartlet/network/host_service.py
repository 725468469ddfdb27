"""The privileged process at work: whom it lets in, what it answers, and when it is not needed any more."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any, TypeVar

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from tartlet.errors import UserError
from tartlet.network import conversation, requests, wire
from tartlet.network.addresses import MacTaken
from tartlet.network.exposed import ExposedPorts
from tartlet.network.fabric import Fabric
from tartlet.network.host_network import HostNetwork
from tartlet.network.hosted_card import HostedCard, hosted_card
from tartlet.network.hosted_guest import HostedGuest, check_count, hosted
from tartlet.network.requests import (
    MOST_TARGETS,
    Attach,
    BridgedCard,
    Elements,
    Hits,
    Isolate,
    More,
    NotAllowed,
    Refused,
    Replace,
    Request,
    Status,
)
from tartlet.network.wire import Hangup

log = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds that an answer may lie unread."""

_PAUSE = 0.1
_CONNECTIONS_BESIDES = 16
"""Connections that a user may have beyond those of his VMs."""


_Hosted = TypeVar("_Hosted", HostedGuest, HostedCard)


class Service:
    """One user sees and changes his own VMs only; root sees those of everybody."""

    def __init__(
        self, network: HostNetwork, tasks: TaskGroup, *, quota: int, admits: Callable[[int], bool], linger: float
    ) -> None:
        """`quota`: VMs that one user may have. `linger`: seconds without anybody after which it is done."""
        self._network, self._tasks = network, tasks
        self._quota, self._admits, self._linger = quota, admits, linger
        self._ports = ExposedPorts()
        self._guests: list[HostedGuest] = []
        self._places: Counter[int] = Counter()
        """VMs of each user, those that are just starting too."""
        self._connections: Counter[int] = Counter()
        self._changed = anyio.Event()

    async def serve(self, listener: socket.socket) -> None:
        """Return when nobody has been here for some time."""
        self._tasks.start_soon(self._accept, listener)
        while True:
            changed = self._changed
            with anyio.move_on_after(None if self._busy() else self._linger):
                await changed.wait()
                continue
            if not self._busy():
                return

    def _busy(self) -> bool:
        return bool(self._places.total() or self._connections.total())

    def _count(self, counter: Counter[int], uid: int, by: int) -> None:
        counter[uid] += by
        self._changed.set()
        self._changed = anyio.Event()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            await anyio.wait_readable(listener)
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as exc:  # no descriptor left, or the other side is gone already
                log.warning("cannot accept: %s", exc)
                await anyio.sleep(_PAUSE)
                continue
            uid = wire.peer_uid(connection)
            if uid and self._connections[uid] >= self._quota + _CONNECTIONS_BESIDES:
                log.info("user %d has too many connections", uid)
                connection.close()
                continue
            connection.setblocking(False)
            self._count(self._connections, uid, 1)
            self._tasks.start_soon(self._served, connection, uid)

    async def _served(self, connection: socket.socket, uid: int) -> None:
        try:
            with connection:
                if self._admits(uid):
                    await _Conversation(self, connection, uid).held()
                else:
                    await _turned_away(connection)
        except (Hangup, ValueError, RecursionError, TimeoutError) as exc:
            # It is gone, does not read its answers, or speaks nonsense: no reason to fail those who do not.
            log.info("a connection of user %d ends: %r", uid, exc)
        finally:
            self._count(self._connections, uid, -1)

    async def attach(self, asked: Attach, uid: int) -> tuple[HostedGuest, list[int]]:
        """A new guest, and the descriptors for its supervisor. Raises what `hosted` raises."""
        await self._former_is_gone(asked)
        await self._room_for(uid)
        self._count(self._places, uid, 1)
        guest: tuple[HostedGuest, list[int]] = await self._tasks.start(self._kept, uid, self._guest(asked, uid))
        return guest

    async def bridge(self, asked: BridgedCard, uid: int) -> tuple[HostedCard, list[int]]:
        """A new card, and the descriptors for its supervisor. Raises what `hosted_card` raises."""
        await self._room_for(uid)
        self._count(self._places, uid, 1)
        made = hosted_card(asked, everywhere=uid == 0)
        card: tuple[HostedCard, list[int]] = await self._tasks.start(self._kept, uid, made)
        return card

    async def _room_for(self, uid: int) -> None:
        """Raises NotAllowed for a user who has as many VMs as he may. Those that are just ending are waited for."""
        while uid and self._places[uid] >= self._quota:
            if not any(guest.owner == uid and guest.has_ended() for guest in self._guests):
                raise NotAllowed(
                    f"user {uid} has {self._quota} VMs in the host's network already, which is the most",
                    "stop one first; vms_per_user in /etc/tartlet/network.toml is the limit",
                )
            await self._changed.wait()

    async def _kept(
        self,
        uid: int,
        what: AbstractAsyncContextManager[tuple[_Hosted, list[int]]],
        *,
        task_status: TaskStatus[tuple[_Hosted, list[int]]],
    ) -> None:
        """What a user has, from its first moment to its last."""
        started = False
        try:
            async with what as (one, descriptors):
                task_status.started((one, descriptors))
                started = True
                await one.ended()
        except Exception:
            if not started:
                raise
            log.exception("a VM of user %d ends badly", uid)  # and nobody else's
        finally:
            self._count(self._places, uid, -1)

    @asynccontextmanager
    async def _guest(self, asked: Attach, uid: int) -> AsyncGenerator[tuple[HostedGuest, list[int]]]:
        with ExitStack() as afterwards:  # what it had has been given back by then
            async with hosted(self._network, self._ports, asked, uid) as (guest, descriptors):
                self._guests.append(guest)
                afterwards.callback(self._guests.remove, guest)
                yield guest, descriptors

    async def _former_is_gone(self, asked: Attach) -> None:
        """A VM that is started again at once gets its address again, which its former run is just giving back."""
        while any(
            guest.has_ended() and (guest.plugged.mac == asked.mac or str(guest.plugged.address) == asked.wish)
            for guest in self._guests
        ):
            await self._changed.wait()

    async def isolate(self, guest: HostedGuest, isolated: bool) -> None:
        """Whether the VM exchanges nothing with other isolated ones. Raises ToolFailed, ToolMissing."""
        await self._network.isolate(guest.plugged, isolated)

    def described(self, uid: int) -> list[dict[str, Any]]:
        """The networks with that user's VMs in them."""
        return [self._described(fabric, uid) for fabric in self._network.fabrics]

    def _described(self, fabric: Fabric, uid: int) -> dict[str, Any]:
        inside = [guest for guest in self._guests if guest.fabric is fabric and not guest.has_ended()]
        vms = [
            {"name": guest.name, "mac": guest.plugged.mac, "address": str(guest.plugged.address)}
            for guest in inside
            if uid in (0, guest.owner)
        ]
        return {**fabric.described(), "vms": vms, "running": len(inside)}


async def _turned_away(connection: socket.socket) -> None:
    """Tell a user whom this process is not for. Raises Hangup, ValueError, TimeoutError."""
    with anyio.fail_after(_PATIENCE):
        await anyio.wait_readable(connection)
        wire.receive_bytes(connection, requests.LONGEST)
        told = {"error": "the host's network is held for another user's VMs", "hint": "sudo tart network setup"}
        await conversation.say(connection, told)


class _Conversation:
    """With one connection, which may come to stand for a VM."""

    def __init__(self, service: Service, connection: socket.socket, uid: int) -> None:
        self._service, self._connection, self._uid = service, connection, uid
        self._allow: Elements = []
        self._block: Elements = []
        self._own: HostedGuest | None = None

    async def held(self) -> None:
        """Answer until the other side hangs up. Raises Hangup, ValueError, RecursionError, TimeoutError."""
        while True:
            await anyio.wait_readable(self._connection)
            request = requests.read(wire.receive_bytes(self._connection, requests.LONGEST))
            if isinstance(request, More):
                self._gather(request.allow, request.block)
                continue
            with ExitStack() as closing:
                told, descriptors = await self._outcome(request)
                for descriptor in descriptors:
                    closing.callback(os.close, descriptor)
                with anyio.fail_after(_PATIENCE):
                    await conversation.say(self._connection, told, descriptors)

    def _gather(self, allow: Elements, block: Elements) -> None:
        if len(self._allow) + len(self._block) + len(allow) + len(block) > MOST_TARGETS:
            raise ValueError("too many elements")
        self._allow += allow
        self._block += block

    async def _outcome(self, request: Request) -> tuple[dict[str, Any], list[int]]:
        try:
            return await self._done(request)
        except UserError as exc:
            taken = exc.mac if isinstance(exc, MacTaken) else None
            return {"error": str(exc), "hint": exc.hint, "taken": taken}, []
        except OSError as exc:
            return {"error": f"the network cannot be set up: {exc.strerror or exc}", "hint": None}, []
        finally:
            self._allow, self._block = [], []

    async def _done(self, request: Request) -> tuple[dict[str, Any], list[int]]:
        match request:
            case Attach():
                return await self._attach(request)
            case BridgedCard():
                card, descriptors = await self._service.bridge(request, self._uid)
                return card.told, descriptors
            case Replace():
                await self._replace(request)
                return {}, []
            case Isolate():
                await self._service.isolate(self._guest, request.isolated)
                return {}, []
            case Refused():
                return {"refused": [_in_words(asdict(one)) for one in await self._guest.filter.refused()]}, []
            case Hits():
                return {"hits": await self._guest.filter.hits()}, []
            case Status():
                return {"networks": self._service.described(self._uid)}, []
            case More():
                raise AssertionError

    @property
    def _guest(self) -> HostedGuest:
        if self._own is None:
            raise NotAllowed("this connection has no VM")
        return self._own

    async def _attach(self, request: Attach) -> tuple[dict[str, Any], list[int]]:
        if self._own is not None:
            raise NotAllowed("this connection has a VM already")
        lists = {"allow": self._allow + request.allow, "block": self._block + request.block}
        whole = msgspec.structs.replace(request, **lists)
        guest, descriptors = await self._service.attach(whole, self._uid)
        self._own = guest
        plug = guest.filter.plug
        told = {"tap": plug.tap, "bridge": plug.bridge, "address": str(plug.address), "gateway": str(plug.gateway)}
        return told, descriptors

    async def _replace(self, request: Replace) -> None:
        former = self._guest.filter.policy
        allow, block = self._allow + request.allow, self._block + request.block
        if former is None:
            raise NotAllowed("only a Softnet VM has rules")
        check_count(allow, block)
        await self._guest.filter.replace(former.with_lists(allow, block))


def _in_words(one: dict[str, Any]) -> dict[str, Any]:
    return {**one, "destination": str(one["destination"])}
