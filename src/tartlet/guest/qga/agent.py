"""The QEMU guest agent, spoken to over the host's end of its port.

Specification: QEMU, docs/interop/qemu-ga-ref and qga/qapi-schema.json. The port is a byte stream that outlives the
agent at its other end, so whatever leaves a request without its reply (a cancelled caller, a time limit, an agent that
restarts, garbage) makes the next request resynchronise first. Nothing here polls for the agent: the owner of QEMU's
monitor tells when the guest opens and closes the port.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
import socket
from collections.abc import Sequence
from typing import TypeVar, cast

import anyio
import msgspec

from tartlet.guest.errors import AgentFailed, AgentUnavailable
from tartlet.guest.qga.json_lines import Lines, LineTooLong, PeerGone
from tartlet.guest.qga.messages import (
    AgentInfo,
    Envelope,
    ExecStatus,
    Interface,
    Nothing,
    Reply,
    Started,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

_QUIET = 15.0
"""Seconds without a byte after which a request is given up (a busy guest without hardware help is slow)."""

_LONGEST = 180.0
"""Seconds after which a request is given up however much keeps arriving."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.004, 0.05
"""Seconds between questions whether a program has ended: short for short programs."""

_PIECE = 64 << 10
"""Bytes sent at once; each piece taken counts as a sign of life."""


class QemuGuestAgent:
    """One VM's guest agent. Requests go out one at a time, in the order in which they were made.

    Every method raises AgentUnavailable when nobody answers and AgentFailed when the agent refuses.
    """

    def __init__(self, sock: socket.socket) -> None:
        """`sock` is connected and becomes non-blocking; the caller keeps owning it."""
        sock.setblocking(False)
        self._sock = sock
        self._lines = Lines(sock)
        self._turn = anyio.Lock()
        self._opened: anyio.Event | None = None
        """Set while the guest holds the port open; made when somebody waits, inside the event loop."""
        self._open = False
        self._current: anyio.CancelScope | None = None
        self._in_step = False
        """No reply is outstanding, so the next line answers the next request."""
        self._repeats_numbers = False
        """The agent puts a request's number into its reply; old ones do not."""
        self._number = random.getrandbits(32)
        self.session = 0
        """Grows whenever an agent appears: what was learnt about the one before may be wrong."""

    @property
    def is_open(self) -> bool:
        """Whether the guest has its end of the port open."""
        return self._open

    def port_opened(self) -> None:
        """The guest's agent has opened the port (or had it open when we came)."""
        self._open, self._in_step = True, False
        self.session += 1
        if self._opened is not None:
            self._opened.set()

    def port_closed(self) -> None:
        """The guest's agent has gone; a request that waits for it fails at once."""
        self._open, self._opened = False, None
        if self._current is not None:
            self._current.cancel()

    async def wait_open(self, patience: float | None) -> bool:
        """Wait up to `patience` seconds (None: for ever) until the port is open; whether it is."""
        with anyio.move_on_after(patience):
            while not self._open:
                self._opened = self._opened or anyio.Event()
                await self._opened.wait()
        return self._open

    async def ping(self) -> None:
        """Return when the agent answers."""
        await self.ask("guest-ping", {}, Nothing)

    async def info(self) -> AgentInfo:
        """Version and commands of the agent."""
        return await self.ask("guest-info", {}, AgentInfo)

    async def start(self, path: str, arguments: Sequence[str] = (), stdin: bytes | None = None) -> int:
        """Start a program (looked up in the agent's PATH) in the agent's environment; its process number."""
        words: dict[str, object] = {"path": path, "arg": list(arguments), "capture-output": True}
        if stdin is not None:
            words["input-data"] = base64.b64encode(stdin).decode()
        return (await self.ask("guest-exec", words, Started)).pid

    async def status(self, pid: int) -> ExecStatus:
        """How a program started by `start` fares. After it was seen ended once, the agent knows it no more."""
        return await self.ask("guest-exec-status", {"pid": pid}, ExecStatus)

    async def ended(self, pid: int) -> ExecStatus:
        """Wait until a program started by `start` has ended; there is no event for that, so this asks now and then."""
        pause = _FIRST_PAUSE
        while True:
            status = await self.status(pid)
            if status.exited:
                return status
            await anyio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def interfaces(self) -> list[Interface]:
        """The guest's network interfaces with their addresses."""
        return await self.ask("guest-network-get-interfaces", {}, list[Interface])

    async def set_clock(self, nanoseconds: int) -> None:
        """Set the guest's clock, in nanoseconds since 1970; by `date` where the agent cannot."""
        try:
            await self.ask("guest-set-time", {"time": nanoseconds}, Nothing)
        except AgentFailed as exc:
            log.debug("guest-set-time: %s", exc)
            status = await self.ended(await self.start("date", ["-u", "-s", f"@{nanoseconds // 10**9}"]))
            if status.exitcode != 0:
                raise

    async def ask(self, command: str, arguments: dict[str, object], kind: type[T], quiet: float | None = None) -> T:
        """Any command, and its value as `kind`; given up after `quiet` seconds without a byte."""
        request: dict[str, object] = {"execute": command, "arguments": arguments}
        quiet = quiet or _QUIET
        async with self._turn:
            if not self._open:
                raise AgentUnavailable
            with anyio.CancelScope() as scope:
                reply = await self._exchange(request, kind, scope, quiet)
                if reply.error is not None:
                    raise AgentFailed(f"{command}: {reply.error.desc}")
                return cast("T", reply.value)
        if not self._open:
            raise AgentUnavailable("the guest agent has gone away")
        raise AgentUnavailable(f"the guest agent did not answer within {quiet:.0f} seconds")

    async def _exchange(
        self, request: dict[str, object], kind: type[T], scope: anyio.CancelScope, quiet: float
    ) -> Reply[T]:
        """Send a request and return its reply. `scope` ends when nothing arrives, or for too long something."""
        last = anyio.current_time() + _LONGEST

        def more_time() -> None:
            scope.deadline = min(anyio.current_time() + quiet, last)

        more_time()
        self._current, self._lines.on_progress = scope, more_time
        try:
            if not self._in_step:
                await self._resynchronise()
            self._in_step = False
            self._number += 1
            await self._send({**request, "id": self._number})
            reply = _reply_of(await self._reply(self._number), kind)
            self._in_step = True
        except PeerGone as exc:
            raise AgentUnavailable(str(exc)) from exc
        except LineTooLong as exc:
            raise AgentFailed(str(exc)) from exc
        else:
            return reply
        finally:
            self._current = None

    async def _send(self, request: dict[str, object], prefix: bytes = b"") -> None:
        data = prefix + json.dumps(request).encode() + b"\n"
        for start in range(0, len(data), _PIECE):
            try:
                await asyncio.get_running_loop().sock_sendall(self._sock, data[start : start + _PIECE])
            except ConnectionError as exc:
                raise PeerGone from exc
            self._lines.on_progress()

    async def _resynchronise(self) -> None:
        """Make both sides forget what is unfinished: all that arrives before our number comes back is old."""
        token = random.getrandbits(48)
        request: dict[str, object] = {"execute": "guest-sync-delimited", "arguments": {"id": token}, "id": token}
        await self._send(request, prefix=b"\xff")
        while True:
            try:
                line = await self._lines.next()
            except LineTooLong:
                continue
            try:
                reply = msgspec.json.decode(line, type=Reply[int])
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                continue  # the rest of something older
            if reply.value == token:
                self._repeats_numbers = bytes(reply.id) == b"%d" % token
                return

    async def _reply(self, number: int) -> bytes | bytearray:
        """The line that answers request `number`. What has no number is ours if the agent repeats none, or if it is
        the agent's complaint about a request that it could not read."""
        while True:
            line = await self._lines.next()
            if line.isspace() or not line:
                continue
            told = _decoded(line, Envelope)
            if bytes(told.id) == b"%d" % number:
                return line
            if not bytes(told.id) and (bytes(told.error) or not self._repeats_numbers):
                return line


def _reply_of(line: bytes | bytearray, kind: type[T]) -> Reply[T]:
    reply = _decoded(line, cast("type[Reply[T]]", Reply[kind]))  # type: ignore[valid-type]
    if reply.value is None and reply.error is None:
        raise AgentFailed("the guest agent answered with a reply that holds nothing")
    return reply


def _decoded(line: bytes | bytearray, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise AgentFailed(f"the guest agent answered with something that is no reply: {exc}") from exc
