"""What the privileged process answers: one connection, one request after the other."""

from __future__ import annotations

import os
import socket
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from dataclasses import asdict
from typing import Any

import anyio
import msgspec

from tartlet.errors import UserError
from tartlet.network.bridge import requests
from tartlet.network.bridge.host_service import Service
from tartlet.network.bridge.hosted_guest import HostedGuest, check_count
from tartlet.network.bridge.requests import (
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
from tartlet.network.rules.filter import Refused as Destination
from tartlet.network.shared import conversation, wire
from tartlet.network.shared.addresses import MacTaken

_PATIENCE = 10.0
"""Seconds that an answer may lie unread."""

_MANY = 256
"""Elements of a policy that take some 20 ms to read."""


async def turned_away(connection: socket.socket) -> None:
    """Tell a user whom this process is not for. Raises Hangup, ValueError, TimeoutError."""
    with anyio.fail_after(_PATIENCE):
        await anyio.wait_readable(connection)
        wire.receive_bytes(connection, requests.LONGEST)
        told = {"error": "the host's network is held for another user's VMs", "hint": "sudo tart network setup"}
        await conversation.say(connection, told)


class Conversation:
    """With a user over one connection, which may come to stand for a VM."""

    def __init__(self, service: Service, connection: socket.socket, uid: int) -> None:
        self._service, self._connection, self._uid = service, connection, uid
        self._allow: Elements = []
        self._block: Elements = []
        self._own: HostedGuest | None = None
        self._told: list[Destination] | None = None

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
                async with self._turn(request):
                    return await self._attach(request)
            case BridgedCard():
                card, descriptors = await self._service.bridge(request, self._uid)
                return card.told, descriptors
            case Replace():
                async with self._turn(request):
                    await self._replace(request)
                return {}, []
            case Isolate():
                await self._service.isolate(self._guest, request.isolated)
                return {}, []
            case Refused():
                return {"refused": await self._refused()}, []
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

    async def _refused(self) -> list[dict[str, Any]] | None:
        """None for what has been told before: it is asked every second, and may be long."""
        found = await self._guest.filter.refused()
        if found is self._told:
            return None
        self._told = found
        return [_in_words(asdict(one)) for one in found]

    def _turn(self, request: Attach | Replace) -> AbstractAsyncContextManager[object]:
        """Long lists of one user are read one after the other: he shall not keep this process from all others."""
        many = len(self._allow) + len(self._block) + len(request.allow) + len(request.block) > _MANY
        return self._service.turns[self._uid] if many else nullcontext()

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
