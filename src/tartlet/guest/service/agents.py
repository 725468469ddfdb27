"""The agents one VM may have, as one: ours where it runs, else one behind vsock, else the QEMU guest agent."""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Awaitable, Callable

import anyio

from tartlet.errors import UserError
from tartlet.guest.commands import ignored
from tartlet.guest.errors import AgentUnavailable, NoAddressYet
from tartlet.guest.own_agent.port_channel import End
from tartlet.guest.own_agent.port_session import TartAgent
from tartlet.guest.own_agent.tart_agent import FILE, PACKAGED_FILE
from tartlet.guest.qga.commands import QgaCommands, usable
from tartlet.guest.service.vsock_agent import VsockAgent

log = logging.getLogger(__name__)

_BOOT_SPREAD = 60.0
"""Seconds in which our agent, where it is installed, comes up after the QEMU guest agent, or after it has gone."""

_OWN_HANDSHAKE = 3.0
"""Seconds our agent may take from opening its port to its answer before the other is asked."""


_HOLD_PAUSE = 0.5
"""Seconds in which an agent that was let go is gone."""


class _Acted(Exception):
    """What was to be done before the agent stops is done."""


class Kind(enum.StrEnum):
    """Which agent answers."""

    TART = "tart-agent"
    VSOCK = "vsock-agent"
    """One that speaks agent.proto itself, as agents made for the original do."""
    QEMU = "qemu-guest-agent"


class GuestAgents:
    """All agents of a VM, chosen between anew for each request. Their owner tells when a port opens or closes."""

    def __init__(self, own: TartAgent, qemu: QgaCommands, vsock: VsockAgent) -> None:
        self.own, self.qemu, self.vsock = own, qemu, vsock
        self._hoped_until = 0.0
        """Until when ours is worth waiting for: the guest boots, or ours has gone and may be restarting."""
        self._curious = anyio.Event()
        """The QEMU guest agent has answered, and it is not known whether one behind vsock would."""

    async def run(self) -> None:
        """What belongs to no single request; has to run all the time."""
        async with anyio.create_task_group() as tasks:
            for work in (self.own.run, self.vsock.run, self._make_room, self._look_behind_vsock):
                tasks.start_soon(work)

    def guest_started(self) -> None:
        """The guest starts anew."""
        self.vsock.guest_started()

    def port_changed(self, kind: Kind, *, is_open: bool) -> None:
        """The guest has opened or closed the port of this agent."""
        agent = self.own if kind is Kind.TART else self.qemu.agent
        if is_open == (kind is Kind.QEMU):
            self._hoped_until = anyio.current_time() + _BOOT_SPREAD
        if kind is Kind.TART and is_open != self.own.is_open:
            self.vsock.leave_alone(_OWN_HANDSHAKE if is_open else None)
        if is_open:
            agent.port_opened()
        else:
            agent.port_closed()
            self.vsock.missing = False  # with whoever has gone

    async def in_sight(self, patience: float) -> bool:
        """Whether one may answer: behind vsock, or at a port that is open; waits up to `patience` seconds for that."""
        if self.vsock.possible:
            return True
        with anyio.move_on_after(patience):
            await _first_of(self.own.wait_open, self._qemu_open)
        return self.own.is_open or self.qemu.agent.is_open

    async def answers(self) -> Kind:
        """Return when one answers; ours, where it is installed and on its way. Raises AgentUnavailable, AgentFailed.

        One behind vsock is not waited for beside the QEMU guest agent: to learn that there is none takes seconds.
        """
        kind = await self.chosen(None)
        if kind is Kind.QEMU:
            await self._own_hoped_for()
            kind = await self.chosen(None)
        if kind is Kind.QEMU:
            await self.qemu.agent.ping()
        return kind

    async def chosen(self, patience: float | None, *, demanding: bool = False) -> Kind:
        """Which agent to ask, waiting up to `patience` seconds for one (None: for ever). Raises AgentUnavailable.

        Ours, if it is up or just coming up. Something demanding, which the QEMU guest agent cannot do as well, waits
        for ours in a guest that boots and has it installed, where they come one after the other, and for one behind
        vsock.
        """
        least = 0.0 if self.own.is_open or self.qemu.agent.is_open else self.vsock.patience
        with anyio.move_on_after(patience or (None if patience is None else least)):
            if not self.own.in_session():
                await _first_of(self._own_ready, self._qemu_ready, self._vsock_ready)
            if not self.own.in_session() and demanding and not self.vsock.present:
                await self._better_one()
        if self.own.in_session():
            return Kind.TART
        if self.vsock.present and await self.vsock.reached():
            return Kind.VSOCK
        if self.qemu.agent.is_open:
            self._curious.set()
            return Kind.QEMU
        raise AgentUnavailable

    async def _better_one(self) -> None:
        """Beside the QEMU guest agent: wait for ours where it is installed and on its way, else look for a third."""
        if not await self._own_hoped_for():
            await self.vsock.found()

    async def _own_hoped_for(self) -> bool:
        """Whether ours is installed, if that is of any use to know; after waiting for it while it is on its way."""
        hope = self._hoped_until - anyio.current_time()
        known = self.vsock.present or self.vsock.missing
        if (hope <= 0 and known) or not await self._has_ours():
            return False
        await self.own.wait_ready(max(0.0, hope))
        return True

    async def _has_ours(self) -> bool:
        try:
            return await self.qemu.has_any_file(PACKAGED_FILE, FILE)
        except UserError as exc:
            log.debug("whether our agent is installed is not known: %s", exc)
        return False

    async def _look_behind_vsock(self) -> None:
        """A guest that has the QEMU guest agent may have a better one, which nobody shall wait for."""
        while True:
            await self._curious.wait()
            self._curious = anyio.Event()
            known = self.own.is_open or self.vsock.present or self.vsock.missing
            if not known and not await self._has_ours():
                await self.vsock.found()

    async def _make_room(self) -> None:
        """A guest in which ours runs needs no vsock device."""
        while True:
            await self.own.wait_ready(None)
            await self.vsock.put_away()
            await self.own.wait_lost()

    async def address(self) -> str:
        """The IPv4 address of the VM's network interface. Raises AgentUnavailable while there is none, AgentFailed."""
        kind = await self.chosen(0)
        if kind is Kind.QEMU:
            return await self.qemu.address()
        if kind is Kind.VSOCK:
            return await self.vsock.address()
        found = (await self._asked({"do": "address", "mac": self.qemu.mac})).address
        if not found or not usable(found):
            raise NoAddressYet
        return found

    async def set_clock(self) -> None:
        """Give the guest this host's time, once an agent is there. Raises AgentUnavailable, AgentFailed."""
        kind = await self.chosen(None)
        if kind is Kind.QEMU:
            await self.qemu.agent.set_clock(time.time_ns())
        elif kind is Kind.VSOCK:
            await self.vsock.set_clock()
        else:
            await self._asked({"do": "clock", "nanoseconds": time.time_ns()})

    async def before_shutdown(self, act: Callable[[], Awaitable[None]]) -> None:
        """Do something each time the guest's system stops our agent, as when it shuts down; it waits for that.

        Does not return. Raises AgentFailed when the agent does not know how to wait.
        """

        async def stopping(_: bytes) -> None:
            await act()
            raise _Acted

        while True:
            await self.own.wait_ready(None)
            try:
                async with self.own.request({"do": "hold"}) as channel:
                    await channel.outcome(stopping, ignored)
            except (_Acted, AgentUnavailable) as exc:
                log.debug("the guest's agent is held no more: %r", exc)
            await anyio.sleep(_HOLD_PAUSE)

    async def _asked(self, told: dict[str, object]) -> End:
        async with self.own.request(told) as channel:
            with anyio.move_on_after(10):
                return await channel.outcome(ignored, ignored)
        raise AgentUnavailable("the guest agent did not answer within 10 seconds")

    async def _own_ready(self) -> None:
        await self.own.wait_ready(None)

    async def _vsock_ready(self) -> None:
        """The one behind vsock answers. Where the QEMU guest agent does, one that is not known is not waited for."""
        if self.qemu.agent.is_open and not self.vsock.present:
            await anyio.sleep_forever()
        await self.vsock.ready()

    async def _qemu_open(self) -> None:
        await self.qemu.agent.wait_open(None)

    async def _qemu_ready(self) -> None:
        """The QEMU guest agent is up, and ours is not already there waiting for its session."""
        await self._qemu_open()
        if self.own.is_open:
            await self.own.wait_ready(_OWN_HANDSHAKE)


async def _first_of(*waits: Callable[[], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as tasks:

        async def wait(one: Callable[[], Awaitable[None]]) -> None:
            await one()
            tasks.cancel_scope.cancel()

        for one in waits:
            tasks.start_soon(wait, one)
