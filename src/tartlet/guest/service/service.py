"""What `tart run` serves on `control.sock`.

Clients speak the gRPC of agent.proto, whatever agent is behind it; here it ends, and its calls become those of the
agent that the guest has. The service lives and dies with the VM.
"""

from __future__ import annotations

import logging
import socket
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import unquote

import anyio
from anyio.abc import TaskGroup
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream

from tartlet.errors import UserError
from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentCannot, AgentFailed, AgentUnavailable
from tartlet.guest.qga.commands import beyond_qga
from tartlet.guest.qga.spool import execute_spooled
from tartlet.guest.rpc import wire
from tartlet.guest.rpc.agent_pb2 import ExecRequest, ExecResponse, IOChunk, ResolveIPRequest, ResolveIPResponse
from tartlet.guest.service.agents import GuestAgents, Kind
from tartlet.guest.service.streamed_exec import stream_exec
from tartlet.guest.service.streamed_port import stream_port
from tartlet.guest.service.vsock_exec import beyond_vsock, relay_exec
from tartlet.guest.service.whole_exec import Output, input_of, send_output, whole_input

log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_PATIENCE = 3600.0
"""Seconds a client may have the service wait for the agent."""

_CLOSING_TIME = 5.0
"""Seconds in which the calls of the last clients must have ended."""

_STATUS = {AgentUnavailable: Status.UNAVAILABLE, AgentCannot: Status.UNIMPLEMENTED, AgentFailed: Status.UNKNOWN}
"""By kinds of errors; the first one that fits counts."""


@asynccontextmanager
async def serving(listener: socket.socket, agents: GuestAgents) -> AsyncGenerator[None]:
    """Serve clients of a bound, listening socket for the length of the block; then hang up on all of them.

    Meanwhile the agents are looked after.
    The listener is closed at the end; its file stays.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agents.run)
        server = _Server([_Agent(agents, tasks)], config=Configuration(wire.WINDOW, wire.WINDOW))
        await server.start(sock=listener)
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - the block's own error, raised below outside the group, so unwrapped
            failure = exc
        finally:
            server.hang_up()
            tasks.cancel_scope.cancel()
            with anyio.move_on_after(_CLOSING_TIME, shield=True):
                await server.wait_closed()
    if failure is not None:
        raise failure


class _Server(Server):
    """A server that can end its connections, too: without that, closing it waits for the clients."""

    def __init__(self, handlers: list[_Agent], config: Configuration) -> None:
        super().__init__(handlers, config=config)
        self._connections: weakref.WeakSet[H2Protocol] = weakref.WeakSet()

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        self._connections.add(made)
        return made

    def hang_up(self) -> None:
        """Accept nobody any more and close every connection."""
        self.close()
        for connection in list(self._connections):
            if hasattr(connection, "processor"):
                connection.processor.close("the VM has ended")


class _Agent:
    """The two methods of agent.proto, and ours."""

    def __init__(self, agents: GuestAgents, tasks: TaskGroup) -> None:
        self._agents, self._tasks = agents, tasks

    def __mapping__(self) -> dict[str, Handler]:
        return {
            wire.EXEC: Handler(self.execute, Cardinality.STREAM_STREAM, ExecRequest, ExecResponse),
            wire.CONNECT: Handler(self.connect, Cardinality.STREAM_STREAM, IOChunk, IOChunk),
            wire.RESOLVE_IP: Handler(self.resolve_ip, Cardinality.UNARY_UNARY, ResolveIPRequest, ResolveIPResponse),
        }

    async def execute(self, stream: Stream[ExecRequest, ExecResponse]) -> None:
        wire.bound(stream)
        request = await stream.recv_message()
        if request is None or request.WhichOneof("type") != "command":
            raise GRPCError(Status.UNKNOWN, "the first request must be a command")
        command = _command(
            request.command, unquote(_header(stream, wire.USER)), bulky=bool(_header(stream, wire.BULKY))
        )
        try:
            kind = await self._agents.chosen(_patience(stream), demanding=command.is_demanding)
            await stream.send_initial_metadata(metadata=self._told_of(kind))
            if kind is Kind.TART:
                code = await stream_exec(self._agents.own, command, stream)
                await stream.send_message(ExecResponse(exit=ExecResponse.Exit(code=code)))
                return
            if kind is Kind.VSOCK:
                ours = bool(_header(stream, wire.PATIENCE))
                await relay_exec(self._agents.vsock, command, request, stream, at_home=ours)
                return
        except UserError as exc:
            raise _status(exc) from exc
        await self._at_once(command, stream)

    def _told_of(self, kind: Kind) -> dict[str, str]:
        transport = {wire.TRANSPORT: self._agents.vsock.transport} if kind is Kind.VSOCK else {}
        return {wire.AGENT: str(kind), **transport}

    async def _at_once(self, command: Command, stream: Stream[ExecRequest, ExecResponse]) -> None:
        """By the QEMU guest agent: all input before, all output after."""
        try:
            self._agents.qemu.check(command)
        except AgentCannot as exc:
            raise _status(exc) from exc
        if command.bulky:
            await self._spooled(command, stream)
            return
        stdin = await whole_input(stream) if command.interactive else None
        outcome = await self._owned(lambda: self._agents.qemu.execute(command, stdin))
        await send_output(stream, outcome)

    async def _spooled(self, command: Command, stream: Stream[ExecRequest, ExecResponse]) -> None:
        """The same with input and output of any size."""
        stdin = input_of(stream) if command.interactive else None
        output = Output(stream)
        code = await self._owned(
            lambda: execute_spooled(self._agents.qemu, command, stdin, output.stdout, output.stderr)
        )
        await stream.send_message(ExecResponse(exit=ExecResponse.Exit(code=code)))

    async def connect(self, stream: Stream[IOChunk, IOChunk]) -> None:
        wire.bound(stream)
        port = _header(stream, wire.PORT)
        try:
            kind = await self._agents.chosen(_patience(stream), demanding=True)
            if kind is not Kind.TART:
                raise beyond_qga("carry connections") if kind is Kind.QEMU else beyond_vsock("carry connections")
            await stream_port(self._agents.own, int(port) if port.isascii() and port.isdigit() else 0, stream)
        except UserError as exc:
            raise _status(exc) from exc

    async def resolve_ip(self, stream: Stream[ResolveIPRequest, ResolveIPResponse]) -> None:
        wire.bound(stream)
        await stream.recv_message()
        address = await self._owned(self._agents.address)
        await stream.send_message(ResolveIPResponse(ip=address))

    async def _owned(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do work in the service's own task group, cancelled when the client goes away.

        grpclib cancels a handler's task outright, through every shield; here the work may clean up behind itself.
        """
        done = anyio.Event()
        scope = anyio.CancelScope()
        results: list[T | Exception] = []

        async def doing() -> None:
            with scope:
                try:
                    results.append(await work())
                except Exception as exc:  # noqa: BLE001 - handed over to the waiting handler, which raises it
                    results.append(exc)
            done.set()

        self._tasks.start_soon(doing)
        try:
            await done.wait()
        finally:
            scope.cancel()
        if not results:
            raise GRPCError(Status.UNAVAILABLE, "the VM has ended")
        return _result(results[0])


def _result(result: T | Exception) -> T:
    if isinstance(result, UserError):
        raise _status(result) from result
    if isinstance(result, Exception):
        raise result
    return result


def _status(error: UserError) -> Exception:
    """What a client is told of it."""
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return GRPCError(status, wire.reason(error))
    return error


def _command(told: ExecRequest.Command, user: str, *, bulky: bool) -> Command:
    size = (told.terminal_size.rows, told.terminal_size.cols)
    return Command(
        user=user,
        size=size if all(size) else (24, 80),
        name=told.name,
        args=tuple(told.args),
        env=dict(told.env),
        workdir=told.workdir,
        interactive=told.interactive,
        tty=told.tty,
        detach=told.detach,
        bulky=bulky,
    )


def _patience(stream: Stream[Any, Any]) -> float:
    """Seconds the client lets us wait for the agent; none unless it says so."""
    told = _header(stream, wire.PATIENCE)
    return min(float(told), _MOST_PATIENCE) if told.isascii() and told.isdigit() else 0.0


def _header(stream: Stream[Any, Any], name: str) -> str:
    return str(stream.metadata[name]) if stream.metadata and name in stream.metadata else ""
