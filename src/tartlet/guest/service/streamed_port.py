"""A client's Connect call joined to a connection that our own agent makes in the guest."""

from __future__ import annotations

import logging

import anyio
from grpclib.server import Stream

from tartlet.errors import UserError
from tartlet.guest.errors import AgentUnavailable
from tartlet.guest.own_agent.port_channel import Channel
from tartlet.guest.own_agent.port_session import TartAgent
from tartlet.guest.rpc.agent_pb2 import IOChunk

log = logging.getLogger(__name__)

PortStream = Stream[IOChunk, IOChunk]


async def stream_port(agent: TartAgent, port: int, stream: PortStream) -> None:
    """Carry bytes until both directions have ended. Raises AgentUnavailable, AgentFailed (also: nobody listens)."""
    failure: UserError | None = None

    async def out(data: bytes) -> None:
        await stream.send_message(IOChunk(data=data))

    async with agent.request({"do": "connect", "port": port}) as channel, anyio.create_task_group() as tasks:
        tasks.start_soon(_feed, stream, channel)
        try:
            await channel.outcome(out, out)
        except UserError as exc:  # raised outside the group, so unwrapped
            failure = exc
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _feed(stream: PortStream, channel: Channel) -> None:
    try:
        async for chunk in stream:
            await channel.give(chunk.data)
            if not chunk.data:
                return
        await channel.give(b"")
    except AgentUnavailable as exc:  # whoever follows the output learns of it too
        log.debug("no more bytes for the guest: %s", exc)
