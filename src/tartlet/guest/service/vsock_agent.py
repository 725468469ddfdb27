"""The agent that listens on vsock port 8080 of a guest, as agents made for the original of `tart` do.

It speaks the gRPC of agent.proto itself, one connection for each request. Whether it is there is found out by
connecting: no event tells. So that a guest which has another agent is left alone, its owner tells when that may come.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio.abc import TaskGroup

from tartlet.errors import UserError
from tartlet.guest.commands import Command, ignored
from tartlet.guest.errors import AgentFailed, AgentUnavailable, NoAddressYet

if TYPE_CHECKING:
    from tartlet.guest.rpc.channel import GuestChannel

log = logging.getLogger(__name__)

PORT = 8080

_ANSWER, _FIRST_ANSWER = 1.0, 5.0
"""Seconds a guest gets to accept or to refuse, and one that has just got the device and looks for its driver."""

_SETTLING = 1.5
"""Seconds in which an agent that was waiting for the device begins to listen: the original's tries once a second."""

_RETRY = 0.25


class Vsock(Protocol):
    """A VM's vsock device, which is plugged in when it is needed."""

    transport: str

    @property
    def possible(self) -> bool: ...

    @property
    def is_plugged(self) -> bool: ...

    async def connect(self, port: int, within: float, when_new: float) -> socket.socket:
        """Raises OSError when nobody listens, UserError, and TimeoutError when the guest says neither yes nor no.

        It has so many seconds for that, `when_new` ones if the device is plugged in for this. Waiting until it may be
        is not the guest's silence, and does not count.
        """
        ...

    async def empty(self) -> None:
        """Take the device out. Raises UserError."""
        ...


class VsockAgent:
    """One VM's agent behind vsock. `run` has to run all the time."""

    def __init__(self, vsock: Vsock, boot: float) -> None:
        """`boot`: seconds in which a guest that starts may not have got as far as an agent."""
        self._vsock, self._boot = vsock, boot
        self._not_before = time.monotonic() + boot
        self._tasks: TaskGroup | None = None
        self._attempt: anyio.Event | None = None
        self._spare: socket.socket | None = None
        """A connection that nobody uses yet."""
        self._users = 0
        self._unused = anyio.Event()
        self._answered = False
        """It has accepted a connection since the guest has started."""
        self._silent = False
        """The last attempt was not even refused: the guest has no driver."""
        self.missing = False
        """It was looked for in this life of the guest, and another agent is there."""

    @property
    def transport(self) -> str:
        """By what it is reached, in words."""
        return self._vsock.transport

    @property
    def possible(self) -> bool:
        """Whether the VM can have a vsock device."""
        return self._vsock.possible

    @property
    def present(self) -> bool:
        """Whether it has accepted the last connection."""
        return self._answered

    async def run(self) -> None:
        """What belongs to no single request is done here."""
        try:
            async with anyio.create_task_group() as self._tasks:
                await anyio.sleep_forever()
        finally:
            self._tasks = None
            self._drop_spare()

    def guest_started(self) -> None:
        """The guest starts anew, and takes its time."""
        self._drop_spare()
        self._answered = self.missing = False
        self.leave_alone()

    def leave_alone(self, seconds: float | None = None) -> None:
        """Another agent may come first, within so many seconds (None: as many as a guest needs to boot)."""
        self._not_before = time.monotonic() + (self._boot if seconds is None else seconds)

    @property
    def patience(self) -> float:
        """Seconds that are worth waiting for it even for who does not wait otherwise."""
        if not self.possible or self.missing or time.monotonic() < self._not_before:
            return 0.0
        return _ANSWER if self._vsock.is_plugged else _FIRST_ANSWER + _SETTLING

    async def ready(self) -> None:
        """Return when it answers, which may be never. It is looked for as long as somebody waits for this."""
        if not self.possible:
            await anyio.sleep_forever()
        while True:
            if (pause := self._not_before - time.monotonic()) > 0:
                await anyio.sleep(pause)
            elif not self.missing and await self.reached():
                return
            else:
                await anyio.sleep(_RETRY)

    async def found(self) -> bool:
        """Whether it is there, beside another agent: looked for once in a life of the guest, for some seconds.

        If not, the guest loses the device.
        """
        if self._answered or self.missing or not self.possible:
            return self._answered
        last = 0.0
        while not await self._tried():
            last = last or time.monotonic() + (0.0 if self._silent else _SETTLING)
            if time.monotonic() >= last:
                self.missing = True
                await self.put_away()
                return False
            await anyio.sleep(_RETRY)
        return True

    async def reached(self) -> bool:
        """Whether it answers now."""
        return self._spare_is_alive() or (self.possible and await self._tried())

    @asynccontextmanager
    async def channel(self) -> AsyncGenerator[GuestChannel]:
        """A connection to it of one's own, for the length of the block. Raises AgentUnavailable."""
        from tartlet.guest.rpc.channel import over  # brings gRPC, which a run begins without

        while not self._spare_is_alive():
            if not await self._tried():
                raise AgentUnavailable
        sock, self._spare = self._spare, None
        assert sock is not None
        self._users += 1
        try:
            with over(sock) as channel:  # leaving it waits for nothing: grpclib cancels through every shield
                yield channel
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def address(self) -> str:
        """The guest's IPv4 address, as the agent tells it. Raises AgentUnavailable, AgentFailed."""
        async with self.channel() as channel:
            address = await channel.resolve_ip()
        if address is None:
            raise NoAddressYet
        return address

    async def set_clock(self) -> None:
        """Give the guest this host's time. Raises AgentUnavailable, AgentFailed."""
        async with self.channel() as channel:
            command = Command(name="sudo", args=("-n", "date", "-u", "-s", f"@{time.time():.3f}"))
            if await channel.execute(command, ignored, ignored):
                raise AgentFailed("the agent may not set the clock")

    async def put_away(self) -> None:
        """Another agent is there: take the device out of the guest, once nobody uses it."""
        while self._users:
            self._unused = anyio.Event()
            await self._unused.wait()
        self._answered = False
        self._drop_spare()
        if self._vsock.is_plugged:
            try:
                await self._vsock.empty()
            except UserError as exc:
                log.debug("the vsock device stays: %s", exc)

    async def _tried(self) -> bool:
        """Try to connect, unless that is under way already; whether there is a connection then."""
        if self._tasks is None:
            return False
        if self._attempt is None:
            self._attempt = anyio.Event()
            self._tasks.start_soon(self._connect, self._attempt)
        await self._attempt.wait()
        return self._answered

    async def _connect(self, done: anyio.Event) -> None:
        try:
            sock = await self._vsock.connect(PORT, _ANSWER, _FIRST_ANSWER)
        except (OSError, UserError) as exc:
            log.debug("the agent behind vsock does not answer: %s", exc)
            self._answered, self._silent = False, isinstance(exc, TimeoutError)
        else:
            self._drop_spare()
            self._spare, self._answered = sock, True
        finally:
            self._attempt = None
            done.set()

    def _spare_is_alive(self) -> bool:
        if self._spare is None:
            return False
        try:
            alive = bool(self._spare.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            alive = False
        if not alive:
            self._drop_spare()
        return alive

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None
