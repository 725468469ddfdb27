"""What the privileged process holds: guests and cards of users, each as long as its VM lives, and not too many."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus

from tartlet.network.bridge.exposed import ExposedPorts
from tartlet.network.bridge.host_network import HostNetwork
from tartlet.network.bridge.hosted_card import HostedCard, hosted_card
from tartlet.network.bridge.hosted_guest import HostedGuest, hosted
from tartlet.network.bridge.requests import (
    Attach,
    BridgedCard,
    NotAllowed,
)
from tartlet.network.preferences import SYSTEM_FILE
from tartlet.network.shared.fabric import Fabric

log = logging.getLogger(__name__)

_Hosted = TypeVar("_Hosted", HostedGuest, HostedCard)


class Service:
    """One user sees and changes his own VMs only; root sees those of everybody."""

    def __init__(self, network: HostNetwork, tasks: TaskGroup, *, quota: int) -> None:
        """`quota`: VMs that one user may have."""
        self._network, self._tasks, self.quota = network, tasks, quota
        self._ports = ExposedPorts()
        self._guests: list[HostedGuest] = []
        self.places: Counter[int] = Counter()
        """VMs of each user, those that are just starting too."""
        self.turns: defaultdict[int, anyio.Lock] = defaultdict(anyio.Lock)
        """One for each user, for what takes long."""
        self.changed = anyio.Event()
        """The next change of a count."""

    def counted(self, counter: Counter[int], uid: int, by: int) -> None:
        """Count for a user, and wake those who wait for a change."""
        counter[uid] += by
        self.changed.set()
        self.changed = anyio.Event()

    async def attach(self, asked: Attach, uid: int) -> tuple[HostedGuest, list[int]]:
        """A new guest, and the descriptors for its supervisor. Raises what `hosted` raises."""
        await self._former_is_gone(asked)
        await self._room_for(uid)
        self.counted(self.places, uid, 1)
        guest: tuple[HostedGuest, list[int]] = await self._tasks.start(self._kept, uid, self._guest(asked, uid))
        return guest

    async def bridge(self, asked: BridgedCard, uid: int) -> tuple[HostedCard, list[int]]:
        """A new card, and the descriptors for its supervisor. Raises what `hosted_card` raises."""
        await self._room_for(uid)
        self.counted(self.places, uid, 1)
        made = hosted_card(asked, everywhere=uid == 0)
        card: tuple[HostedCard, list[int]] = await self._tasks.start(self._kept, uid, made)
        return card

    async def _room_for(self, uid: int) -> None:
        """Raises NotAllowed for a user who has as many VMs as he may. Those that are just ending are waited for."""
        while uid and self.places[uid] >= self.quota:
            if not any(guest.owner == uid and guest.has_ended() for guest in self._guests):
                raise NotAllowed(
                    f"user {uid} has {self.quota} VMs in the host's network already, which is the most",
                    f"stop one first; vms_per_user in {SYSTEM_FILE} is the limit",
                )
            await self.changed.wait()

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
            self.counted(self.places, uid, -1)

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
            await self.changed.wait()

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
