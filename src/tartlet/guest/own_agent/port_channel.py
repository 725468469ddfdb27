"""One request to our own agent, with everything that belongs to it: a channel of the session on its port."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import anyio
import msgspec

from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentFailed, AgentUnavailable
from tartlet.guest.own_agent.port_frames import Damaged, Frame
from tartlet.guest.own_agent.tart_agent import (
    CANCEL,
    CREDIT,
    END,
    ERRORS,
    HEADER,
    INPUT,
    LARGEST,
    OUTPUT,
    RESIZE,
    WINDOW,
)

_WORTH_GRANTING = WINDOW // 4
"""Bytes that are handed on before the guest is told of it."""

T = TypeVar("T")


class Sink(Protocol):
    """Where a channel's frames go."""

    def put(self, kind: int, channel: int, payload: bytes = b"") -> None:
        """Queue a small frame, whatever waits already."""
        ...

    async def room(self) -> None:
        """Return when there is room for a large frame."""
        ...


class End(msgspec.Struct):
    """How a request ended."""

    code: int | None = None
    error: str | None = None
    address: str | None = None


class Channel:
    """A request that the guest works on. Every method raises AgentUnavailable once the session has ended."""

    def __init__(self, sink: Sink, number: int) -> None:
        self._sink, self.number = sink, number
        self._arrived: deque[Frame] = deque()
        self._news = anyio.Event()
        self._window = WINDOW
        """What the guest may still send."""
        self._handed_on = 0
        self._credit = WINDOW
        """What may still be sent to the guest."""
        self._more_credit = anyio.Event()
        self._lost: str | None = None
        self._ended = False

    def arrived(self, frame: Frame) -> None:
        """A frame for this channel. Raises Damaged when the guest sends more than it was granted."""
        if frame.kind == CREDIT:
            self._granted(frame)
            return
        if self._ended:
            return
        if frame.kind == END:
            self._ended = True
        else:
            self._window -= frame.cost
        if self._window < 0:
            raise Damaged("the guest's agent sent more than it may")
        self._arrived.append(frame)
        self._news.set()

    def lost(self, reason: str) -> None:
        """The session is over."""
        self._lost = reason
        self._news.set()
        self._more_credit.set()

    async def outcome(
        self, stdout: Callable[[bytes], Awaitable[None]], stderr: Callable[[bytes], Awaitable[None]]
    ) -> End:
        """Hand output on until the request has ended, and tell how. Raises AgentFailed with the guest's own reason."""
        while True:
            frame = await self._next()
            if frame.kind == END:
                return _told(frame)
            if frame.kind == OUTPUT:
                await stdout(frame.payload)
            elif frame.kind == ERRORS:
                await stderr(frame.payload)
            self._handed_on += frame.cost
            if self._handed_on >= _WORTH_GRANTING:
                self._window += self._handed_on
                self._sink.put(CREDIT, self.number, struct.pack(">I", self._handed_on))
                self._handed_on = 0

    async def give(self, data: bytes) -> None:
        """Input for the command, its end when empty. Waits while the command does not read."""
        for start in range(0, max(1, len(data)), LARGEST):
            piece = data[start : start + LARGEST]
            cost = HEADER.size + len(piece)
            while self._credit < cost and self._lost is None:
                self._more_credit = anyio.Event()
                await self._more_credit.wait()
            await self._sink.room()
            if self._lost is not None:
                raise AgentUnavailable(self._lost)
            self._credit -= cost
            self._sink.put(INPUT, self.number, piece)

    def resize(self, rows: int, columns: int) -> None:
        """The command's terminal has a new size."""
        self._sink.put(RESIZE, self.number, struct.pack(">HH", min(rows, 0xFFFF), min(columns, 0xFFFF)))

    def cancel(self) -> None:
        """Nobody waits for the command any more: the guest kills it."""
        if self._lost is None and not self._ended:
            self._sink.put(CANCEL, self.number)

    def _granted(self, frame: Frame) -> None:
        if len(frame.payload) != 4:
            raise Damaged("the guest's agent sent a damaged frame")
        self._credit += struct.unpack(">I", frame.payload)[0]
        if self._credit > WINDOW:
            raise Damaged("the guest's agent grants more than its window")
        self._more_credit.set()

    async def _next(self) -> Frame:
        while not self._arrived:
            if self._lost is not None:
                raise AgentUnavailable(self._lost)
            self._news = anyio.Event()
            await self._news.wait()
        return self._arrived.popleft()


def exec_request(command: Command) -> dict[str, object]:
    """What opens a channel for this command."""
    return {
        "do": "exec",
        "name": command.name,
        "args": list(command.args),
        "env": dict(command.env),
        "workdir": command.workdir,
        "user": command.user,
        "interactive": command.interactive,
        "tty": command.tty,
        "size": command.size,
        "detach": command.detach,
    }


def _told(frame: Frame) -> End:
    end = decoded(frame.payload, End)
    if end.error is not None:
        raise AgentFailed(end.error)
    return end


def decoded(payload: bytes, kind: type[T]) -> T:
    """JSON of the guest as a type. Raises AgentFailed."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise AgentFailed(f"the guest agent answered with something that is no answer: {exc}") from exc
