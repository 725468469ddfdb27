"""QEMU's events as an async iterator.

Specification: QEMU, docs/interop/qmp-spec, and the names in qapi/*.json.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from qemu.qmp import QMPClient, Runstate
from qemu.qmp.events import EventListener
from qemu.qmp.message import Message

_KEPT_EVENTS = 10_000
"""Events a subscriber may be behind. QEMU limits how often a guest can cause one, so this is far away."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something QEMU tells unasked."""

    name: str
    """As in QEMU's documentation: SHUTDOWN, RESET, STOP, VSERPORT_CHANGE, MIGRATION, …"""
    data: Mapping[str, Any]


class Events:
    """The events of some names, in order, from the moment of subscribing until QEMU is gone."""

    def __init__(self, client: QMPClient, received: MemoryObjectReceiveStream[Event]) -> None:
        self._client, self._received = client, received

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        event = await self.next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def next(self) -> Event | None:
        """The next event; None when QEMU is gone and all that it said has been told."""
        with suppress(anyio.WouldBlock):
            return self._received.receive_nowait()
        event: Event | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_gone, self._client, tasks.cancel_scope)
            event = await self._received.receive()
            tasks.cancel_scope.cancel()
        if event is None:
            with suppress(anyio.WouldBlock):  # it may have come together with the end
                event = self._received.receive_nowait()
        return event


class _Subscription(EventListener):
    """A listener that keeps no history: a machine may run for months."""

    def __init__(self, names: tuple[str, ...], into: MemoryObjectSendStream[Event]) -> None:
        super().__init__(names)
        self._into = into

    async def put(self, event: Message) -> None:
        if self.accept(event):
            data = cast("dict[str, Any]", event.get("data") or {})
            await self._into.send(Event(str(event["event"]), data))


@contextmanager
def subscribed(client: QMPClient, names: tuple[str, ...]) -> Generator[Events]:
    """Subscribe to the events of these names for the length of the block; to all of them without a name."""
    into, out = anyio.create_memory_object_stream[Event](_KEPT_EVENTS)
    with into, out, client.listen(_Subscription(names, into)):
        yield Events(client, out)


async def _cancel_when_gone(client: QMPClient, scope: anyio.CancelScope) -> None:
    while client.runstate == Runstate.RUNNING:
        await client.runstate_changed()
    scope.cancel()
