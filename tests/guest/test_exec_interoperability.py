"""The official gRPC implementation at the other end: of our socket as a client, of our client as a server."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import grpc
import pytest
from google.protobuf.message import Message
from grpclib.config import Configuration

from guest_channels import Heard, heard, served
from machines import MAC
from scripted_qga import scripted_qga
from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentCannot, AgentFailed, AgentUnavailable
from tartlet.guest.rpc import channel as channel_module
from tartlet.guest.rpc.agent_pb2 import ExecRequest, ExecResponse, IOChunk, ResolveIPRequest, ResolveIPResponse
from tartlet.guest.rpc.channel import connect

pytestmark = pytest.mark.anyio

Answers = Callable[[Iterator[ExecRequest], Any], Iterator[ExecResponse]]


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (ExecRequest(command=ExecRequest.Command(name="ls")), "0a04 0a02 6c73"),
        (ExecRequest(command=ExecRequest.Command(args=["a", ""])), "0a05 1201 61 1200"),
        (ExecRequest(command=ExecRequest.Command(interactive=True, tty=True)), "0a04 1801 2001"),
        (ExecRequest(command={"terminal_size": {"rows": 24, "cols": 80}}), "0a06 2a04 0818 1050"),
        (ExecRequest(command=ExecRequest.Command(detach=True)), "0a02 3001"),
        (ExecRequest(command=ExecRequest.Command(env={"K": "V"})), "0a08 3a06 0a01 4b 1201 56"),
        (ExecRequest(command=ExecRequest.Command(workdir="/")), "0a03 4201 2f"),
        (ExecRequest(standard_input=IOChunk(data=b"\xff")), "1203 0a01 ff"),
        (ExecRequest(standard_input=IOChunk()), "1200"),
        (ExecRequest(terminal_resize={"rows": 1}), "1a02 0801"),
        (ExecResponse(exit=ExecResponse.Exit(code=0)), "0a00"),
        (ExecResponse(exit=ExecResponse.Exit(code=-1)), "0a0b 08 ffffffffffffffffff01"),
        (ExecResponse(standard_output=IOChunk(data=b"x")), "1203 0a01 78"),
        (ExecResponse(standard_error=IOChunk(data=b"x")), "1a03 0a01 78"),
        (ResolveIPRequest(), ""),
        (ResolveIPResponse(ip="1.2.3.4"), "0a07 312e322e332e34"),
    ],
)
async def test_numbers_and_types_of_the_contract(message: Message, wire: str) -> None:
    assert message.SerializeToString() == bytes.fromhex(wire)
    assert type(message).FromString(bytes.fromhex(wire)) == message


class OfficialClient:
    """The official client on a control socket; blocking, for a thread."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.exec = channel.stream_stream(
            "/Agent/Exec",
            request_serializer=ExecRequest.SerializeToString,
            response_deserializer=ExecResponse.FromString,
        )
        self.resolve_ip = channel.unary_unary(
            "/Agent/ResolveIP",
            request_serializer=ResolveIPRequest.SerializeToString,
            response_deserializer=ResolveIPResponse.FromString,
        )


def official_client(folder: Path, use: Callable[[OfficialClient], None]) -> None:
    with grpc.insecure_channel(f"unix:{folder}/control.sock") as channel:
        use(OfficialClient(channel))


async def test_the_official_client_runs_commands(tmp_path: Path) -> None:
    data = os.urandom(300_000)

    def requests() -> Iterator[ExecRequest]:
        yield ExecRequest(
            command=ExecRequest.Command(name="sh", args=["-c", "cat; echo e >&2; exit 5"], interactive=True)
        )
        yield ExecRequest(standard_input=IOChunk(data=data[:200_000]))
        yield ExecRequest(terminal_resize={"rows": 3, "cols": 4})
        yield ExecRequest(standard_input=IOChunk(data=data[200_000:]))
        yield ExecRequest(standard_input=IOChunk())
        never.wait(10)  # the official agents' clients do not end their half

    def use(client: OfficialClient) -> None:
        responses: list[ExecResponse] = list(client.exec(requests(), timeout=20))
        never.set()
        assert b"".join(response.standard_output.data for response in responses) == data
        assert b"".join(response.standard_error.data for response in responses) == b"e\n"
        assert responses[-1] == ExecResponse(exit=ExecResponse.Exit(code=5))
        assert client.resolve_ip(ResolveIPRequest(), timeout=5).ip == "10.0.2.15"

    never = threading.Event()
    with scripted_qga() as (port, _):
        async with served(tmp_path, port, MAC):
            await anyio.to_thread.run_sync(official_client, tmp_path, use)


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (ExecRequest(standard_input=IOChunk(data=b"x")), grpc.StatusCode.UNKNOWN, "first request must be a command"),
        (ExecRequest(), grpc.StatusCode.UNKNOWN, "first request must be a command"),
        (ExecRequest(command={"name": "no-such"}), grpc.StatusCode.UNKNOWN, "no-such: not found"),
        (ExecRequest(command={"name": "sh", "tty": True}), grpc.StatusCode.UNIMPLEMENTED, "terminal"),
        (ExecRequest(command={"name": "sh", "detach": True}), grpc.StatusCode.UNIMPLEMENTED, "detach"),
        (ExecRequest(command={"name": "x" * (5 << 20)}), grpc.StatusCode.RESOURCE_EXHAUSTED, "too large"),
    ],
)
async def test_statuses_the_official_client_gets(
    tmp_path: Path, request_: ExecRequest, status: grpc.StatusCode, text: str
) -> None:
    def use(client: OfficialClient) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            list(client.exec(iter([request_]), timeout=20))
        assert caught.value.code() is status  # pyright: ignore[reportAttributeAccessIssue]
        assert text in str(caught.value.details())  # pyright: ignore[reportAttributeAccessIssue]

    with scripted_qga() as (port, _):
        async with served(tmp_path, port, MAC):
            await anyio.to_thread.run_sync(official_client, tmp_path, use)


@contextmanager
def official_server(folder: Path, answers: Answers, address: str = "192.168.64.7") -> Generator[None]:
    """The official server at the folder's control socket."""

    def resolve_ip(_request: ResolveIPRequest, _context: Any) -> ResolveIPResponse:  # noqa: ANN401
        return ResolveIPResponse(ip=address)

    methods = {
        "Exec": grpc.stream_stream_rpc_method_handler(answers, ExecRequest.FromString, ExecResponse.SerializeToString),
        "ResolveIP": grpc.unary_unary_rpc_method_handler(
            resolve_ip,
            ResolveIPRequest.FromString,
            ResolveIPResponse.SerializeToString,
        ),
    }
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Agent", methods),))
    server.add_insecure_port(f"unix:{folder}/control.sock")
    server.start()
    try:
        yield
    finally:
        server.stop(grace=None).wait()


async def test_our_client_streams_with_the_official_server(tmp_path: Path) -> None:
    """An agent that streams: what goes in comes back at once, and the end does not wait for the input's end."""

    def echo(requests: Iterator[ExecRequest], _: Any) -> Iterator[ExecResponse]:  # noqa: ANN401
        command = next(requests).command
        yield ExecResponse(standard_error=IOChunk(data=f"{command.name} {command.args}".encode()))
        for request in requests:
            if request.standard_input.data == b"stop":
                break
            yield ExecResponse(standard_output=request.standard_input)
        yield ExecResponse(exit=ExecResponse.Exit(code=300))

    async def endless() -> AsyncIterator[bytes]:
        for piece in (b"one", b"two", b"stop"):
            yield piece
            await anyio.sleep(0.05)
        await anyio.sleep_forever()

    with official_server(tmp_path, echo):
        async with connect(tmp_path) as channel:
            for _ in range(5):
                said = Heard()
                command = Command(name="a", args=("b",), interactive=True)
                with anyio.fail_after(5):
                    code = await channel.execute(command, said.take_out, said.take_err, endless())
                assert (code, said.out, said.err) == (300, b"onetwo", b"a ['b']")
            assert await channel.resolve_ip(5) == "192.168.64.7"


async def test_all_output_arrives_before_the_end_though_the_server_resets_the_stream(tmp_path: Path) -> None:
    def much(requests: Iterator[ExecRequest], _: Any) -> Iterator[ExecResponse]:  # noqa: ANN401
        next(requests)
        for _ in range(200):
            yield ExecResponse(standard_output=IOChunk(data=bytes(4096)))
        yield ExecResponse(exit=ExecResponse.Exit(code=1))

    async def nothing() -> AsyncIterator[bytes]:
        await anyio.sleep_forever()
        yield b""

    with official_server(tmp_path, much):
        async with connect(tmp_path) as channel:
            for interactive in (False, True, True, True):
                said = Heard()
                command = Command(name="a", interactive=interactive)
                assert await channel.execute(command, said.take_out, said.take_err, nothing()) == 1
                assert len(said.out) == 200 * 4096


@pytest.mark.parametrize("interactive", [False, True])
async def test_a_stream_that_ends_well_without_an_exit_is_zero(tmp_path: Path, interactive: bool) -> None:
    def silent(requests: Iterator[ExecRequest], _: Any) -> Iterator[ExecResponse]:  # noqa: ANN401
        next(requests)
        yield ExecResponse()
        yield ExecResponse(standard_output=IOChunk(data=b"x"))

    with official_server(tmp_path, silent):
        async with connect(tmp_path) as channel:
            said = Heard()
            with anyio.fail_after(5):
                command = Command(name="a", interactive=interactive)
                assert await channel.execute(command, said.take_out, said.take_err) == 0
            assert said.out == b"x"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.UNKNOWN, AgentFailed),
        (grpc.StatusCode.UNIMPLEMENTED, AgentCannot),
        (grpc.StatusCode.UNAVAILABLE, AgentUnavailable),
        (grpc.StatusCode.INTERNAL, AgentFailed),
    ],
)
async def test_a_status_is_an_error_with_its_text_made_harmless(
    tmp_path: Path, status: grpc.StatusCode, error: type[Exception]
) -> None:
    def refuse(requests: Iterator[ExecRequest], context: Any) -> Iterator[ExecResponse]:  # noqa: ANN401
        next(requests)
        yield ExecResponse(standard_output=IOChunk(data=b"before"))
        context.abort(status, "exec: \x1b[2J\x07 not found")

    with official_server(tmp_path, refuse):
        async with connect(tmp_path) as channel:
            said = Heard()
            with pytest.raises(error) as caught:
                await channel.execute(Command(name="a"), said.take_out, said.take_err)
            assert str(caught.value) == r"exec: \x1b[2J\x07 not found"
            assert said.out == b"before"


@pytest.mark.parametrize("address", ["fe80::1", "", "not an address", "1.2.3.4.5"])
async def test_an_answer_that_is_no_ipv4_address_is_none(tmp_path: Path, address: str) -> None:
    with official_server(tmp_path, lambda _requests, _context: iter(()), address):
        async with connect(tmp_path) as channel:
            assert await channel.resolve_ip(5) is None


async def test_a_message_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    def large(requests: Iterator[ExecRequest], _: Any) -> Iterator[ExecResponse]:  # noqa: ANN401
        next(requests)
        yield ExecResponse(standard_output=IOChunk(data=bytes(5 << 20)))

    with official_server(tmp_path, large):
        async with connect(tmp_path) as channel:
            with pytest.raises(AgentFailed, match="too large"):
                await heard(channel, "a")


async def test_nobody_listening_is_told_after_the_given_patience(tmp_path: Path) -> None:
    with pytest.raises(AgentUnavailable, match="control socket does not answer"):
        async with connect(tmp_path, patience=0.2):
            pass
    gone = socket.socket(socket.AF_UNIX)
    with gone:
        gone.bind(str(tmp_path / "control.sock"))
    with pytest.raises(AgentUnavailable, match="control socket does not answer"):
        async with connect(tmp_path, patience=0.1):
            pass


@pytest.mark.parametrize(
    "says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10, b"\0" * 100], ids=["nothing", "http", "zeros"]
)
async def test_a_peer_that_hangs_up_is_told(tmp_path: Path, says: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()

        def greet() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(10)
                peer.sendall(says)

        thread = threading.Thread(target=greet)
        thread.start()
        with anyio.fail_after(5), pytest.raises(AgentUnavailable, match="connection to the guest agent was lost"):
            async with connect(tmp_path) as channel:
                await heard(channel, "true")
        thread.join()


async def test_a_peer_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Configuration(_keepalive_time=0.2, _keepalive_timeout=0.2, _http2_min_sent_ping_interval_without_data=0.2)
    monkeypatch.setattr(channel_module, "_CONFIG", config)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()
        with anyio.fail_after(5), pytest.raises(AgentUnavailable):
            async with connect(tmp_path) as channel:
                await heard(channel, "true")
        async with connect(tmp_path) as channel:
            assert await channel.resolve_ip(0.2) is None
