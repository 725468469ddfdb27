"""The official gRPC client and our own agent: what an agent for `tart exec` does while a command runs."""

from __future__ import annotations

import queue
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anyio.to_thread
import grpc
import pytest

from host_agents import agent_process, agents_served
from tartlet.guest.rpc.agent_pb2 import ExecRequest, ExecResponse, IOChunk

pytestmark = pytest.mark.anyio


class Call:
    """One Exec call of the official client, which says what it is told to say, when it is told to."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._asked: queue.Queue[ExecRequest | None] = queue.Queue()
        method = channel.stream_stream(
            "/Agent/Exec",
            request_serializer=ExecRequest.SerializeToString,
            response_deserializer=ExecResponse.FromString,
        )
        self.answers = method(iter(self._asked.get, None), timeout=30)
        self.out = b""

    def command(self, name: str, *args: str, **more: object) -> None:
        self._asked.put(ExecRequest(command={"name": name, "args": list(args), **more}))

    def type(self, keys: bytes) -> None:
        self._asked.put(ExecRequest(standard_input=IOChunk(data=keys)))

    def resize(self, rows: int, columns: int) -> None:
        self._asked.put(ExecRequest(terminal_resize={"rows": rows, "cols": columns}))

    def shows(self, pattern: bytes) -> None:
        while not (found := re.search(pattern, self.out)):
            self.out += next(self.answers).standard_output.data
        self.out = self.out[found.end() :]

    def code(self) -> int:
        """How it ended, once everything was heard."""
        last = None
        for last in self.answers:
            self.out += last.standard_output.data
        self._asked.put(None)
        assert last is not None
        assert last.WhichOneof("type") == "exit"
        return int(last.exit.code)


async def used(folder: Path, use: Callable[[grpc.Channel], None]) -> None:
    """Our own agent served in the folder, and a thread that uses the official client on it."""

    def in_thread() -> None:
        with grpc.insecure_channel(f"unix:{folder}/control.sock") as channel:
            use(channel)

    with agent_process() as (port, _):
        async with agents_served(folder, port) as agents:
            await agents.own.wait_ready(20)  # such a client does not say that it would wait
            await anyio.to_thread.run_sync(in_thread)


async def test_a_terminal_with_keys_and_sizes(tmp_path: Path) -> None:
    def use(channel: grpc.Channel) -> None:
        call = Call(channel)
        call.command("sh", interactive=True, tty=True, terminal_size={"rows": 30, "cols": 90})
        call.type(b"PS1=; stty size\r")
        call.shows(rb"30 90\r\n")
        call.resize(41, 142)
        call.type(b"stty size\r")
        call.shows(rb"41 142\r\n")
        call.type(b"cat\r")
        call.type(b"a line\r")
        call.shows(rb"a line\r\na line\r\n")
        call.type(b"")  # the end of input, which ends cat and not the call
        call.type(b"exit 7\r")
        assert call.code() == 7

    await used(tmp_path, use)


async def test_streams_variables_and_a_folder(tmp_path: Path) -> None:
    def use(channel: grpc.Channel) -> None:
        call = Call(channel)
        call.command("sh", "-c", "pwd; echo $GREETING; cat", interactive=True, env={"GREETING": "hi"}, workdir="/etc")
        call.shows(rb"/etc\nhi\n")
        for word in (b"one\n", b"two\n"):
            call.type(word)
            call.shows(word)
        call.type(b"")
        assert (call.code(), call.out) == (0, b"")

    await used(tmp_path, use)


async def test_a_cancelled_call_kills_the_command_and_a_detached_one_outlives_it(tmp_path: Path) -> None:
    def use(channel: grpc.Channel) -> None:
        call = Call(channel)
        call.command("sh", "-c", "echo begun; exec sleep 7663")
        call.shows(b"begun")
        call.answers.cancel()
        _until(lambda: not _runs("^sleep 7663"))
        call = Call(channel)
        call.command("sh", "-c", f"sleep 0.5; echo kept > {tmp_path}/mark", detach=True)
        assert call.code() == 0
        _until((tmp_path / "mark").exists)

    await used(tmp_path, use)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (ExecRequest(standard_input=IOChunk(data=b"x")), "the first request must be a command"),
        (ExecRequest(command={"name": "no-such-program"}), "no-such-program: not found in /"),
        (ExecRequest(command={"name": "true", "detach": True, "tty": True}), "neither input nor terminal"),
        (ExecRequest(command={"name": "true", "workdir": "/no/such"}), "cannot enter the folder /no/such"),
    ],
)
async def test_what_cannot_be_is_a_status(request_: ExecRequest, text: str, tmp_path: Path) -> None:
    def use(channel: grpc.Channel) -> None:
        method = channel.stream_stream(
            "/Agent/Exec",
            request_serializer=ExecRequest.SerializeToString,
            response_deserializer=ExecResponse.FromString,
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(method(iter([request_]), timeout=10))
        error = caught.value
        assert isinstance(error, grpc.Call)
        assert error.code() is grpc.StatusCode.UNKNOWN
        assert text in (error.details() or "")

    await used(tmp_path, use)


async def test_many_calls_on_one_connection(tmp_path: Path) -> None:
    def use(channel: grpc.Channel) -> None:
        codes: list[int] = []

        def one(number: int) -> None:
            call = Call(channel)
            call.command("sh", "-c", f"sleep 0.3; exit {number}")
            codes.append(call.code())

        threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(codes) == list(range(20))

    await used(tmp_path, use)


def _runs(words: str) -> bool:
    return bool(subprocess.run(["pgrep", "-f", words], capture_output=True, check=False).stdout)


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
