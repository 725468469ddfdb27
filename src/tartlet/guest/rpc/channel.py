"""The client of a VM's control socket: run commands in the guest, ask for its address."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import anyio.lowlevel
from grpclib.client import Channel, Stream, StreamStreamMethod, UnaryUnaryMethod
from grpclib.config import Configuration

from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentCannot, AgentUnavailable, escaped
from tartlet.guest.rpc import wire
from tartlet.guest.rpc.agent_pb2 import (
    ExecRequest,
    ExecResponse,
    IOChunk,
    ResolveIPRequest,
    ResolveIPResponse,
    TerminalSize,
)
from tartlet.guest.rpc.calls import OVER, finished, received, translated
from tartlet.guest.rpc.socket_channel import SocketChannel
from tartlet.host import sockets

log = logging.getLogger(__name__)

PATIENCE = 30
"""Seconds the supervisor's socket and the guest's agent are given to come up."""

_RETRY = 0.05
"""Seconds between attempts to connect while `tart run` is still starting."""

_CONFIG = Configuration(
    _keepalive_time=10.0,
    _keepalive_timeout=20.0,
    _http2_min_sent_ping_interval_without_data=10.0,
    http2_connection_window_size=wire.WINDOW,
    http2_stream_window_size=wire.WINDOW,
)
"""Two pings and then silence: a peer that is stuck is noticed within 30 s, and no server takes offence."""

_CHUNK = 64 << 10
"""Bytes of input sent at once."""

Writer = Callable[[bytes], Awaitable[None]]


@asynccontextmanager
async def connect(folder: Path, patience: float = PATIENCE) -> AsyncGenerator[GuestChannel]:
    """The channel to the running VM of `folder` for the length of the block.

    Raises AgentUnavailable when nobody listens within `patience` seconds.
    """
    channel = SocketChannel(await _connected(folder, patience), config=_CONFIG)
    try:
        yield GuestChannel(channel, patience, of_ours=True)
    finally:
        channel.close()
        await anyio.lowlevel.cancel_shielded_checkpoint()  # asyncio closes the socket in the loop's next turn


@contextmanager
def over(sock: socket.socket) -> Generator[GuestChannel]:
    """The channel to an agent at the other end of a connected socket, which is closed when the block ends."""
    channel = SocketChannel(sock, config=_CONFIG)
    try:
        yield GuestChannel(channel, 0, of_ours=False)
    finally:
        channel.close()


class GuestChannel:
    """One connection to a VM's control socket; any number of calls may use it at the same time."""

    def __init__(self, channel: Channel, patience: float, *, of_ours: bool) -> None:
        """`of_ours`: a supervisor is at the other end, and not an agent itself."""
        self._exec = StreamStreamMethod(channel, wire.EXEC, ExecRequest, ExecResponse)
        self._resolve_ip = UnaryUnaryMethod(channel, wire.RESOLVE_IP, ResolveIPRequest, ResolveIPResponse)
        self._connect = StreamStreamMethod(channel, wire.CONNECT, IOChunk, IOChunk)
        self._patience, self._of_ours = patience, of_ours
        self.agent: str | None = None
        """Which agent has carried out the last command, when the server tells."""
        self.transport: str | None = None
        """By what that agent is reached, when the server tells."""

    async def execute(
        self,
        command: Command,
        stdout: Writer,
        stderr: Writer,
        stdin: AsyncIterable[bytes] | None = None,
        sizes: AsyncIterable[tuple[int, int]] | None = None,
    ) -> int:
        """Run a command in the guest and return its exit code (-1: ended by a signal) as soon as it has ended.

        `stdin` is read while the command runs and only if it is interactive; `sizes` are new (rows, columns) of its
        terminal, as they come. Cancelling kills the command.

        Raises AgentUnavailable, AgentCannot, AgentFailed, and what the writers and the reader raise.
        """
        code = 0
        async with translated(with_hints=self._of_ours), anyio.create_task_group() as tasks:
            metadata = {wire.PATIENCE: str(int(self._patience))}
            if command.user:
                metadata[wire.USER] = quote(command.user)
            if command.bulky:
                metadata[wire.BULKY] = "1"
            try:
                async with self._exec.open(metadata=metadata) as stream:
                    fed = stdin if command.interactive else None
                    request = ExecRequest(command=_message(command))
                    await stream.send_message(request, end=not command.interactive and not command.tty)
                    wire.bound(stream)
                    if fed is not None:
                        tasks.start_soon(_feed, stream, fed, command.tty)
                    if sizes is not None:
                        tasks.start_soon(_tell_sizes, stream, sizes)
                    await _followed(stream, stdout, stderr, self._answered_by)
            except _Ended as ended:
                code = ended.code
            tasks.cancel_scope.cancel()
        return code

    async def relay(
        self,
        command: ExecRequest,
        more: AsyncIterable[ExecRequest],
        answer: Callable[[ExecResponse], Awaitable[None]],
    ) -> None:
        """Have a command run, handing the messages of both sides on as they are, until it has ended.

        Cancelling kills the command. Raises AgentUnavailable, AgentFailed, and what `more` and `answer` raise.
        """
        async with translated(with_hints=self._of_ours), anyio.create_task_group() as tasks:
            try:
                async with self._exec.open() as stream:
                    await stream.send_message(command)
                    wire.bound(stream)
                    tasks.start_soon(_send_on, stream, more)
                    await _relayed(stream, answer)
            except _Ended:
                log.debug("the command has ended")
            tasks.cancel_scope.cancel()

    def _answered_by(self, stream: Stream[Any, Any]) -> None:
        headers: Mapping[str, object] = stream.initial_metadata or {}
        self.agent = escaped(str(headers[wire.AGENT])) if wire.AGENT in headers else None
        self.transport = escaped(str(headers[wire.TRANSPORT])) if wire.TRANSPORT in headers else None

    async def join(self, port: int, incoming: AsyncIterable[bytes], outgoing: Writer) -> None:
        """Carry a TCP connection to a port of the guest's loopback until both directions have ended.

        What `incoming` yields goes to the guest, its end too; what comes from there goes to `outgoing`, b"" at its end.
        Raises AgentUnavailable, AgentCannot, AgentFailed (nobody listens), and what reader and writer raise.
        """
        async with translated(with_hints=self._of_ours), anyio.create_task_group() as tasks:
            metadata = {wire.PATIENCE: str(int(self._patience)), wire.PORT: str(port)}
            async with self._connect.open(metadata=metadata) as stream:
                await stream.send_request()
                wire.bound(stream)
                tasks.start_soon(_send_all, stream, incoming)
                while (chunk := await received(stream)) is not None:
                    await outgoing(chunk.data)
                await finished(stream)
            tasks.cancel_scope.cancel()

    async def resolve_ip(self, patience: float = 1.0) -> str | None:
        """The guest's IPv4 address as its agent tells it; None when there is no answer (yet) within `patience` seconds.

        Raises AgentFailed when the agent says that it cannot tell.
        """
        try:
            with anyio.move_on_after(patience):
                async with translated(with_hints=self._of_ours), self._resolve_ip.open() as stream:
                    await stream.send_message(ResolveIPRequest(), end=True)
                    wire.bound(stream)
                    reply = await received(stream)
                return None if reply is None else _ipv4(reply.ip)
        except (AgentUnavailable, AgentCannot) as exc:
            log.debug("no address by the agent: %s", exc)
        return None


class _Ended(Exception):
    """The command has ended: leaves its stream at once, whatever either side still means to say."""

    def __init__(self, code: int) -> None:
        self.code = code


async def _connected(folder: Path, patience: float) -> socket.socket:
    deadline = anyio.current_time() + patience
    while True:
        try:
            return sockets.connected(folder, wire.SOCKET_NAME)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as exc:
            if anyio.current_time() >= deadline:
                raise AgentUnavailable("the VM's control socket does not answer") from exc
        except OSError as exc:
            raise AgentUnavailable(f"the VM's control socket cannot be used: {exc.strerror}") from exc
        await anyio.sleep(_RETRY)


_ExecStream = Stream[ExecRequest, ExecResponse]


async def _feed(stream: _ExecStream, stdin: AsyncIterable[bytes], stays_open: bool) -> None:
    """Send standard input to its end. A stream that ends first is no concern of this side: the reader tells why."""
    try:
        async for data in stdin:
            for start in range(0, len(data), _CHUNK):
                await _send_input(stream, data[start : start + _CHUNK])
        await _send_input(stream, b"")
        if not stays_open:  # sizes of the terminal may follow
            await stream.end()
    except OVER as exc:
        log.debug("the command takes no more input: %s", exc)


async def _send_on(stream: _ExecStream, more: AsyncIterable[ExecRequest]) -> None:
    try:
        async for request in more:
            await stream.send_message(request)
    except OVER as exc:
        log.debug("the command takes no more input: %s", exc)


async def _send_all(stream: Stream[IOChunk, IOChunk], incoming: AsyncIterable[bytes]) -> None:
    try:
        async for data in incoming:
            for start in range(0, len(data), _CHUNK):
                await stream.send_message(IOChunk(data=data[start : start + _CHUNK]))
        await stream.send_message(IOChunk(), end=True)
    except OVER as exc:
        log.debug("the connection takes no more: %s", exc)


async def _tell_sizes(stream: _ExecStream, sizes: AsyncIterable[tuple[int, int]]) -> None:
    try:
        async for rows, columns in sizes:
            await stream.send_message(ExecRequest(terminal_resize=TerminalSize(rows=rows, cols=columns)))
    except OVER as exc:
        log.debug("the command's terminal is gone: %s", exc)


async def _send_input(stream: _ExecStream, data: bytes) -> None:
    await stream.send_message(ExecRequest(standard_input=IOChunk(data=data)))


async def _followed(
    stream: _ExecStream, stdout: Writer, stderr: Writer, answered: Callable[[_ExecStream], None]
) -> None:
    """Hand output on until the command ends. Returns when the stream ends well without telling how it ended.

    Raises _Ended.
    """
    await stream.recv_initial_metadata()
    answered(stream)
    while (response := await received(stream)) is not None:
        kind = response.WhichOneof("type")
        if kind == "exit":
            raise _Ended(response.exit.code)
        if kind == "standard_output":
            await stdout(response.standard_output.data)
        elif kind == "standard_error":
            await stderr(response.standard_error.data)
    await finished(stream)


async def _relayed(stream: _ExecStream, answer: Callable[[ExecResponse], Awaitable[None]]) -> None:
    """The same with the messages as they are. Raises _Ended."""
    while (response := await received(stream)) is not None:
        await answer(response)
        if response.WhichOneof("type") == "exit":
            raise _Ended(response.exit.code)
    await finished(stream)


def _message(command: Command) -> ExecRequest.Command:
    rows, columns = command.size
    return ExecRequest.Command(
        name=command.name,
        args=command.args,
        interactive=command.interactive,
        tty=command.tty,
        terminal_size=TerminalSize(rows=rows, cols=columns) if command.tty else None,
        detach=command.detach,
        env=command.env,
        workdir=command.workdir,
    )


def _ipv4(text: str) -> str | None:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        return None
