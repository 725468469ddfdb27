"""Our own agent, spoken to over the host's end of its port: sessions, and many requests side by side in one.

The owner of QEMU's monitor tells when the guest opens and closes the port, and each opening is answered with a new
session; so agents may restart, guests reboot, and machines be saved and resumed. Nothing is asked again and again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import msgspec

from tartlet.errors import UserError
from tartlet.guest.errors import AgentUnavailable
from tartlet.guest.own_agent.port_channel import Channel, decoded
from tartlet.guest.own_agent.port_frames import Damaged, Frame, Frames, knock, new_mark
from tartlet.guest.own_agent.tart_agent import HELLO, LARGEST, LOST, OPEN, PART, PING, PONG, WINDOW, frame

log = logging.getLogger(__name__)

_FIRST_KNOCK, _LAST_KNOCK = 0.5, 8.0
"""Seconds until an agent that does not answer is knocked at again, at first and at last."""

_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
"""Seconds after a session that the guest broke, growing as long as it breaks them."""

_QUIET = 15.0
"""Seconds without a byte after which the agent is pinged, and given up after as many more."""

_MOST_GARBAGE = 16 << 20
"""Bytes passed over in search of a mark, before the guest is left alone for a while."""

_PIECE = 256 << 10
_BACKLOG = WINDOW
"""Bytes that wait for the port before input does."""


class Hello(msgspec.Struct):
    """What the agent says of itself."""

    version: str = ""
    machine: str = ""
    """Which machine its system was told to be on."""


class PortGone(UserError):
    """QEMU has closed the port: the VM has ended."""


Greeting = Callable[["TartAgent", Hello], Awaitable[None]]


class TartAgent:
    """One VM's agent. `run` has to run all the time."""

    def __init__(self, sock: socket.socket, greet: Greeting | None = None) -> None:
        """`sock` is connected and becomes non-blocking; the caller keeps owning it.

        `greet` is awaited at the begin of each session, before anybody else learns of it.
        """
        sock.setblocking(False)
        self._sock = sock
        self._open = False
        self._changed = anyio.Event()
        """Set, and replaced, whenever the port or the session comes or goes."""
        self._scope: anyio.CancelScope | None = None
        self._to_write = bytearray()
        self._written = anyio.Event()
        self._something = anyio.Event()
        self._channels: dict[int, Channel] = {}
        self._number = 0
        self._heard = 0.0
        self._greet = greet
        self._hello: Hello | None = None
        self._ready = False
        """There is a session, and all that comes first is done."""

    @property
    def is_open(self) -> bool:
        """Whether the guest has its end of the port open."""
        return self._open

    def in_session(self) -> bool:
        """Whether the agent answers."""
        return self._ready

    def port_opened(self) -> None:
        """The guest's agent has opened the port (or had it open when we came)."""
        self._end_session("the guest agent has restarted")
        self._open = True
        self._tell()

    def port_closed(self) -> None:
        """The guest's agent has gone."""
        self._open = False
        self._end_session("the guest agent has gone away")
        self._tell()

    async def wait_open(self) -> None:
        """Return when the guest has its end of the port open."""
        while not self._open:
            await self._changed.wait()

    async def wait_ready(self, patience: float | None) -> bool:
        """Wait up to `patience` seconds (None: for ever) for a session; whether there is one."""
        with anyio.move_on_after(patience):
            while not self._ready:
                await self._changed.wait()
        return self._ready

    async def wait_lost(self) -> None:
        """Return when there is no session."""
        while self._ready:
            await self._changed.wait()

    @asynccontextmanager
    async def request(self, told: Mapping[str, object]) -> AsyncGenerator[Channel]:
        """Ask something of the agent; leaving the block before its answer is there cancels it.

        Raises AgentUnavailable.
        """
        if self._hello is None:
            raise AgentUnavailable
        self._number += 1
        channel = Channel(self, self._number)
        self._channels[channel.number] = channel
        data = json.dumps(told).encode()
        try:
            for start in range(0, len(data), LARGEST):
                await self.room()
                last = start + LARGEST >= len(data)
                self.put(OPEN if last else PART, channel.number, data[start : start + LARGEST])
            yield channel
        finally:
            channel.cancel()
            self._channels.pop(channel.number, None)

    def put(self, kind: int, channel: int, payload: bytes = b"") -> None:
        """Queue a frame; none without a session."""
        if self._hello is not None:
            self._to_write += frame(kind, channel, payload)
            self._something.set()

    async def room(self) -> None:
        """Return when there is room for a large frame."""
        while len(self._to_write) >= _BACKLOG and self._hello is not None:
            await self._written.wait()

    async def run(self) -> None:
        """Keep a session while the port is open; returns when QEMU has closed it."""
        pause = _PAUSE
        while True:
            await self.wait_open()
            begun = anyio.current_time()
            try:
                with anyio.CancelScope() as self._scope:
                    await self._session()
            except PortGone as exc:
                self._end_session(str(exc))
                return
            except UserError as exc:
                log.debug("the session with the guest's agent ended: %s", exc)
                self._end_session(str(exc))
                pause = _PAUSE if anyio.current_time() - begun > _LONGEST_PAUSE else min(pause * 2, _LONGEST_PAUSE)
                await anyio.sleep(pause)

    async def _session(self) -> None:
        """Begin a session and serve it; raises how it ended."""
        frames = Frames()
        await self._begin(frames)
        self._heard = anyio.current_time()
        failure: UserError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write)
            tasks.start_soon(self._look_after, tasks.cancel_scope)
            tasks.start_soon(self._welcome)
            try:
                await self._serve(frames)
            except UserError as exc:
                failure = exc
            tasks.cancel_scope.cancel()
        raise failure or AgentUnavailable("the guest agent does not answer any more")

    async def _begin(self, frames: Frames) -> None:
        """Knock until the agent answers the last knock."""
        patience = _FIRST_KNOCK
        while True:
            mark = new_mark()
            failure: UserError | None = None
            with anyio.move_on_after(patience) as limit:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._send_all, knock(mark))
                    try:
                        await self._found(frames, mark)
                    except UserError as exc:  # raised outside the group, so unwrapped
                        failure = exc
                        tasks.cancel_scope.cancel()
            if failure is not None:
                raise failure
            if not limit.cancelled_caught:
                return
            patience = min(patience * 2, _LAST_KNOCK)

    async def _found(self, frames: Frames, mark: bytes) -> None:
        """Drop what arrives until the mark does."""
        dropped = 0
        while not frames.found(mark):
            data = await self._receive()
            dropped += len(data)
            if dropped > _MOST_GARBAGE:
                raise Damaged("the guest floods its agent's port")
            frames.add(data)

    async def _welcome(self) -> None:
        """Do what comes first in a session, and tell everybody of it."""
        while self._hello is None:
            await self._changed.wait()
        if self._greet is not None:
            try:
                await self._greet(self, self._hello)
            except UserError as exc:  # the agent is still of use
                log.warning("the guest's agent did not obey at first: %s", exc)
        self._ready = True
        self._tell()

    async def _serve(self, frames: Frames) -> None:
        while True:
            while (arrived := frames.next()) is not None:
                self._take(arrived)
            frames.add(await self._receive())

    def _take(self, arrived: Frame) -> None:
        if self._hello is None:
            if arrived.kind != HELLO:
                raise Damaged("the guest's agent does not introduce itself")
            self._hello = decoded(arrived.payload, Hello)
            self._tell()
        elif arrived.kind == LOST:
            raise Damaged("the guest's agent could not read what it was sent")
        elif arrived.kind not in (HELLO, PONG) and arrived.channel in self._channels:
            self._channels[arrived.channel].arrived(arrived)

    async def _look_after(self, scope: anyio.CancelScope) -> None:
        """Ping an agent that says nothing; one that does not answer, or never introduced itself, is given up."""
        while True:
            heard = self._heard
            await anyio.sleep(_QUIET)
            if self._heard != heard:
                continue
            self.put(PING, 0)
            await anyio.sleep(_QUIET)
            if self._heard == heard:
                scope.cancel()

    async def _write(self) -> None:
        while True:
            while not self._to_write:
                self._something = anyio.Event()
                await self._something.wait()
            piece = bytes(self._to_write[: LARGEST * 2])
            del self._to_write[: len(piece)]
            self._made_room()
            await self._send_all(piece)

    async def _send_all(self, data: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)
        except ConnectionError:
            log.debug("QEMU takes nothing more for the guest's agent")

    async def _receive(self) -> bytes:
        await anyio.lowlevel.checkpoint()  # a guest that floods must not keep the loop from everything else
        try:
            data = await asyncio.get_running_loop().sock_recv(self._sock, _PIECE)
        except ConnectionError as exc:
            raise PortGone("the VM has ended") from exc
        if not data:
            raise PortGone("the VM has ended")
        self._heard = anyio.current_time()
        return data

    def _end_session(self, reason: str) -> None:
        self._hello, self._ready = None, False
        self._to_write.clear()
        self._made_room()
        for channel in self._channels.values():
            channel.lost(reason)
        self._channels.clear()
        if self._scope is not None:
            self._scope.cancel()
            self._scope = None
        self._tell()

    def _made_room(self) -> None:
        """Wake all who wait for room."""
        written, self._written = self._written, anyio.Event()
        written.set()

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
