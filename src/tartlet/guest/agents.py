"""The agents one VM may have, as one: ours where it runs, and the QEMU guest agent where it does not."""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Awaitable, Callable

import anyio

from tartlet.errors import UserError
from tartlet.guest.errors import AgentUnavailable
from tartlet.guest.port_channel import End
from tartlet.guest.port_session import TartAgent
from tartlet.guest.qga_commands import QgaCommands, usable
from tartlet.guest.tart_agent import FILE, PACKAGED_FILE

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
    QEMU = "qemu-guest-agent"


class GuestAgents:
    """Both agents of a VM, chosen between anew for each request. Their owner tells when a port opens or closes."""

    def __init__(self, own: TartAgent, qemu: QgaCommands) -> None:
        self.own, self.qemu = own, qemu
        self._hoped_until = 0.0
        """Until when ours is worth waiting for: the guest boots, or ours has gone and may be restarting."""

    def port_changed(self, kind: Kind, *, is_open: bool) -> None:
        """The guest has opened or closed the port of this agent."""
        agent = self.own if kind is Kind.TART else self.qemu.agent
        if is_open == (kind is Kind.QEMU):
            self._hoped_until = anyio.current_time() + _BOOT_SPREAD
        if is_open:
            agent.port_opened()
        else:
            agent.port_closed()

    async def answers(self) -> Kind:
        """Return when the one answers that is best for this guest. Raises AgentUnavailable, AgentFailed."""
        kind = await self.chosen(None)
        if kind is Kind.QEMU:
            await self._promised()
            kind = await self.chosen(None)
        if kind is Kind.QEMU:
            await self.qemu.agent.ping()
        return kind

    async def chosen(self, patience: float | None, *, demanding: bool = False) -> Kind:
        """Which agent to ask, waiting up to `patience` seconds for one (None: for ever). Raises AgentUnavailable.

        Ours, if it is up or just coming up. Something demanding, which the other cannot do as well, waits for ours in a
        guest that boots and has it installed, where they come one after the other.
        """
        with anyio.move_on_after(patience):
            if not self.own.in_session():
                await _first_of(self._own_ready, self._qemu_ready)
            if not self.own.in_session() and demanding:
                await self._promised()
        if self.own.in_session():
            return Kind.TART
        if self.qemu.agent.is_open:
            return Kind.QEMU
        raise AgentUnavailable

    async def _promised(self) -> None:
        """Wait for our agent in a guest that has it installed and where it may be on its way."""
        if anyio.current_time() >= self._hoped_until:
            return
        try:
            if not await self.qemu.has_any_file(PACKAGED_FILE, FILE):
                return
        except UserError as exc:
            log.debug("whether our agent is installed is not known: %s", exc)
            return
        await self.own.wait_ready(self._hoped_until - anyio.current_time())

    async def address(self) -> str:
        """The IPv4 address of the VM's network interface. Raises AgentUnavailable while there is none, AgentFailed."""
        if await self.chosen(0) is Kind.QEMU:
            return await self.qemu.address()
        found = (await self._asked({"do": "address", "mac": self.qemu.mac})).address
        if not found or not usable(found):
            raise AgentUnavailable(
                "the guest has no IPv4 address yet", "wait for its network: `tart ip NAME --wait 60`"
            )
        return found

    async def set_clock(self) -> None:
        """Give the guest this host's time, once an agent is there. Raises AgentUnavailable, AgentFailed."""
        if await self.chosen(None) is Kind.QEMU:
            await self.qemu.agent.set_clock(time.time_ns())
        else:
            await self._asked({"do": "clock", "nanoseconds": time.time_ns()})

    async def before_shutdown(self, act: Callable[[], Awaitable[None]]) -> None:
        """Do something each time the guest's system stops our agent, as when it shuts down; it waits for that.

        Does not return. Raises AgentFailed when the agent does not know how to wait.
        """

        async def stopping(_: bytes) -> None:
            await act()
            raise _Acted

        async def nothing(_: bytes) -> None:
            pass

        while True:
            await self.own.wait_ready(None)
            try:
                async with self.own.request({"do": "hold"}) as channel:
                    await channel.outcome(stopping, nothing)
            except (_Acted, AgentUnavailable) as exc:
                log.debug("the guest's agent is held no more: %r", exc)
            await anyio.sleep(_HOLD_PAUSE)

    async def _asked(self, told: dict[str, object]) -> End:
        async def nothing(_: bytes) -> None:
            pass

        async with self.own.request(told) as channel:
            with anyio.move_on_after(10):
                return await channel.outcome(nothing, nothing)
        raise AgentUnavailable("the guest agent did not answer within 10 seconds")

    async def _own_ready(self) -> None:
        await self.own.wait_ready(None)

    async def _qemu_ready(self) -> None:
        """The QEMU guest agent is up, and ours is not already there waiting for its session."""
        await self.qemu.agent.wait_open(None)
        if self.own.is_open:
            await self.own.wait_ready(_OWN_HANDSHAKE)


async def _first_of(*waits: Callable[[], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as tasks:

        async def wait(one: Callable[[], Awaitable[None]]) -> None:
            await one()
            tasks.cancel_scope.cancel()

        for one in waits:
            tasks.start_soon(wait, one)
