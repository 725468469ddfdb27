"""A client's Exec call as what an agent needs that takes no stream: its input, and a place for output."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from tartlet.guest.commands import Outcome
from tartlet.guest.qga.commands import LARGEST_INPUT
from tartlet.guest.rpc.agent_pb2 import ExecRequest, ExecResponse, IOChunk

_CHUNK = 64 << 10
"""Bytes of output sent at once."""

ExecStream = Stream[ExecRequest, ExecResponse]


async def whole_input(stream: ExecStream) -> bytes:
    """Standard input in one piece. Raises GRPCError when it is more than the QEMU guest agent takes."""
    read = bytearray()
    async for data in input_of(stream):
        read += data
        if len(read) > LARGEST_INPUT:
            text = f"more than {LARGEST_INPUT >> 20} MiB of standard input are too much for the QEMU guest agent"
            raise GRPCError(Status.RESOURCE_EXHAUSTED, text)
    return bytes(read)


async def input_of(stream: ExecStream) -> AsyncGenerator[bytes]:
    """Standard input to its end: the empty chunk, or the client sending nothing more."""
    async for request in stream:
        if request.WhichOneof("type") != "standard_input":
            continue
        if not request.standard_input.data:
            break
        yield request.standard_input.data


class Output:
    """A command's output as messages of its stream."""

    def __init__(self, stream: ExecStream) -> None:
        self._stream = stream

    async def stdout(self, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK):
            chunk = IOChunk(data=data[start : start + _CHUNK])
            await self._stream.send_message(ExecResponse(standard_output=chunk))

    async def stderr(self, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK):
            chunk = IOChunk(data=data[start : start + _CHUNK])
            await self._stream.send_message(ExecResponse(standard_error=chunk))


async def send_output(stream: ExecStream, outcome: Outcome) -> None:
    """Send all of it, and how it ended. Raises GRPCError when the agent kept only a part."""
    output = Output(stream)
    await output.stdout(outcome.stdout)
    await output.stderr(outcome.stderr)
    if outcome.cut:
        text = (
            f"the output was cut: the QEMU guest agent carries 16 MiB of each stream; "
            f"the command itself ended with {outcome.exit_code}"
        )
        raise GRPCError(Status.OUT_OF_RANGE, text)
    await stream.send_message(ExecResponse(exit=ExecResponse.Exit(code=outcome.exit_code)))
