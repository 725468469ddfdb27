"""A client's Exec call joined to a command of our own agent: everything passes through as it comes."""

from __future__ import annotations

import logging

import anyio
from grpclib.server import Stream

from tartlet.errors import UserError
from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentFailed, AgentUnavailable
from tartlet.guest.own_agent.port_channel import Channel, End, exec_request
from tartlet.guest.own_agent.port_session import TartAgent
from tartlet.guest.rpc.agent_pb2 import ExecRequest, ExecResponse, IOChunk

log = logging.getLogger(__name__)

ExecStream = Stream[ExecRequest, ExecResponse]


async def stream_exec(agent: TartAgent, command: Command, stream: ExecStream) -> int:
    """Run a command for a client and return its exit code. Cancelled, it kills the command.

    Raises AgentUnavailable, AgentFailed (also when the program cannot be started).
    """
    end: End | UserError = AgentUnavailable()
    async with agent.request(exec_request(command)) as channel, anyio.create_task_group() as tasks:
        tasks.start_soon(_feed, stream, channel, command.tty)
        try:
            end = await _follow(stream, channel)
        except UserError as exc:  # raised outside the group, so unwrapped
            end = exc
        tasks.cancel_scope.cancel()
    if isinstance(end, UserError):
        raise end
    if end.code is None:
        raise AgentFailed("the guest agent does not tell how the command ended")
    return end.code


async def _follow(stream: ExecStream, channel: Channel) -> End:
    async def stdout(data: bytes) -> None:
        await stream.send_message(ExecResponse(standard_output=IOChunk(data=data)))

    async def stderr(data: bytes) -> None:
        await stream.send_message(ExecResponse(standard_error=IOChunk(data=data)))

    return await channel.outcome(stdout, stderr)


async def _feed(stream: ExecStream, channel: Channel, tty: bool) -> None:
    """Input and sizes of the client's terminal. A client that says it sends nothing more has ended its input.

    On a terminal the end of input is a key like others: more may follow, and sizes.
    """
    try:
        async for request in stream:
            kind = request.WhichOneof("type")
            if kind == "standard_input":
                await channel.give(request.standard_input.data)
                if not request.standard_input.data and not tty:
                    break
            elif kind == "terminal_resize":
                channel.resize(request.terminal_resize.rows, request.terminal_resize.cols)
        else:
            await channel.give(b"")
    except AgentUnavailable as exc:  # whoever follows the output learns of it too
        log.debug("no more input for the command: %s", exc)
