"""What every call of an agent over gRPC has in common: its messages, its end, and its errors as ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import google.protobuf.message
import h2.exceptions
from grpclib.client import Stream
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from tartlet.guest.errors import AgentCannot, AgentFailed, AgentUnavailable, escaped, refused
from tartlet.guest.rpc import wire

OVER = (StreamTerminatedError, ProtocolError, h2.exceptions.ProtocolError)
"""What sending into a stream raises that the other side has ended."""

_FOREIGN = (GRPCError, *OVER)

T = TypeVar("T")


async def finished(stream: Stream[Any, Any]) -> None:
    """Take the stream's status, though our half may still be open. Raises GRPCError."""
    vars(stream)["_end_done"] = True
    await stream.recv_trailing_metadata()


async def received(stream: Stream[Any, T]) -> T | None:
    """The next message; None at the end. Raises AgentFailed for what is none, and what `translated` turns into ours."""
    try:
        return await stream.recv_message()
    # grpclib 0.4 raises the first for a message that is cut short, the second for a compressed one.
    except (AssertionError, NotImplementedError, google.protobuf.message.DecodeError) as exc:
        raise AgentFailed(f"the guest agent sent something that is no message: {exc}") from exc


@asynccontextmanager
async def translated(*, with_hints: bool) -> AsyncGenerator[None]:
    """Turn the errors of gRPC and HTTP/2 into ours, also out of a group.

    `with_hints`: the other side is a supervisor of ours, which sends hints. A guest may not give the user advice.
    """
    task = cast("asyncio.Task[object]", asyncio.current_task())
    cancelled = task.cancelling()
    try:
        yield
    except (ExceptionGroup, *_FOREIGN) as exc:
        while task.cancelling() > cancelled:
            task.uncancel()  # grpclib 0.4 cancels whoever waits for a stream that is lost, and leaves it at that
        cause = _first(exc)
        error = _ours(cause, with_hints)
        if error is None:
            raise cause from cause.__cause__
        raise error from cause


def _first(error: Exception) -> Exception:
    if isinstance(error, ExceptionGroup):
        return _first(cast("ExceptionGroup[Exception]", error).exceptions[0])
    return error


def _ours(error: Exception, with_hints: bool) -> Exception | None:
    if isinstance(error, GRPCError):
        return _refusal(error.status, error.message or error.status.name, with_hints)
    if isinstance(error, _FOREIGN):
        return AgentUnavailable(f"the connection to the guest agent was lost: {escaped(str(error))}")
    return None


def _refusal(status: Status, reason: str, with_hints: bool) -> AgentUnavailable | AgentFailed:
    message, hint = wire.message_and_hint(reason) if with_hints else (reason, None)
    text, hint = escaped(message), None if hint is None else escaped(hint)
    if status is Status.UNAVAILABLE:
        return AgentUnavailable(text, hint)
    return AgentCannot(text, hint) if status is Status.UNIMPLEMENTED else refused(text, hint)
