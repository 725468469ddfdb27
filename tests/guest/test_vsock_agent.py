"""An agent of the official gRPC behind vsock, without a machine: what passes through it, and when it is asked."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import grpc
import pytest

from guest_channels import heard
from host_agents import agent_process
from machines import MAC
from scripted_qga import scripted_qga
from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentCannot, AgentFailed, AgentUnavailable
from tartlet.guest.own_agent.port_session import TartAgent
from tartlet.guest.qga.agent import QemuGuestAgent
from tartlet.guest.qga.commands import QgaCommands
from tartlet.guest.rpc import agent_pb2
from tartlet.guest.rpc.channel import GuestChannel, connect
from tartlet.guest.service.agents import GuestAgents, Kind
from tartlet.guest.service.service import serving
from tartlet.guest.service.vsock_agent import VsockAgent
from tartlet.host.sockets import listening
from vsock_agents import Wire, vsock_agent

pytestmark = pytest.mark.anyio


async def eventually(true: Callable[[], bool]) -> None:
    """Wait until it is true."""
    with anyio.fail_after(20):
        while not true():  # noqa: ASYNC110 - what others do has no event here
            await anyio.sleep(0.02)


def printed(*words: str) -> bytes:
    """What a program of this host prints."""
    return subprocess.run(words, capture_output=True, check=False).stdout


@asynccontextmanager
async def served(
    folder: Path, *, own: socket.socket | None = None, qemu: socket.socket | None = None, boot: float = 0
) -> AsyncGenerator[tuple[GuestAgents, Wire]]:
    """The folder's control socket; other agents have their ports open if they are given."""
    async with AsyncExitStack() as held:
        nobody = held.enter_context(socket.socket(socket.AF_UNIX))
        wire = Wire(folder / "agent.sock")
        qga = QgaCommands(QemuGuestAgent(qemu or nobody), MAC)
        agents = GuestAgents(TartAgent(own or nobody), qga, VsockAgent(wire, boot))
        for port, kind in ((own, Kind.TART), (qemu, Kind.QEMU)):
            if port is not None:
                agents.port_changed(kind, is_open=True)
        listener = held.enter_context(listening(folder, "control.sock"))
        await held.enter_async_context(serving(listener, agents))
        yield agents, wire


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[GuestChannel]:
    """A channel to a VM whose only agent is behind vsock."""
    with vsock_agent(tmp_path / "agent.sock"):
        async with served(tmp_path), connect(tmp_path) as made:
            yield made


async def test_commands(channel: GuestChannel) -> None:
    said = await heard(channel, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (said.code, said.out, said.err) == (7, b"out\n", b"err\n")
    assert (channel.agent, channel.transport) == ("vsock-agent", "a wire")
    assert (await heard(channel, "sh", "-c", "kill -9 $$")).code == -1
    assert (await heard(channel, "cat", stdin=bytes(range(256)) * 4096)).out == bytes(range(256)) * 4096
    terminal = Command(name="stty", args=("size",), tty=True, size=(40, 100))
    assert (await heard(channel, command=terminal)).out == b"40 100\r\n"


async def test_what_an_old_agent_does_not_know_is_done_all_the_same(channel: GuestChannel, tmp_path: Path) -> None:
    script = 'pwd; echo "$GREETING"; id -un'
    me = pwd.getpwuid(os.geteuid()).pw_name
    command = Command(name="sh", args=("-c", script), env={"GREETING": "a b"}, workdir="/etc", user=me)
    assert (await heard(channel, command=command)).out.decode() == f"/etc\na b\n{me}\n"
    mark = tmp_path / "mark"
    script = f"sleep 0.3; echo kept > {mark}.new; mv {mark}.new {mark}"
    assert (await heard(channel, command=Command(name="sh", args=("-c", script), detach=True))).code == 0
    assert not mark.exists()
    await eventually(mark.exists)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (Command(name="no-such"), "no-such: not found in /"),
        (Command(name="no-such", env={"A": "b"}, tty=True), "no-such: not found in /"),
        (Command(name="no-such", detach=True), "no-such: not found in /"),
        (Command(name="true", workdir="/no/such"), "cannot enter the folder /no/such"),
    ],
)
async def test_a_program_that_cannot_start_is_an_error(channel: GuestChannel, command: Command, text: str) -> None:
    with pytest.raises(AgentFailed, match=text):
        await heard(channel, command=command)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("user", ["nobody-knows", "4123456"])
async def test_a_user_that_the_guest_does_not_have_is_an_error_with_a_hint(
    channel: GuestChannel, user: str, detach: bool
) -> None:
    with pytest.raises(AgentFailed, match=f"^the guest has no user {user}$") as caught:
        await heard(channel, command=Command(name="true", user=user, detach=detach))
    assert "/etc/passwd" in (caught.value.hint or "")


async def test_a_user_told_by_number_is_one_too(channel: GuestChannel) -> None:
    said = await heard(channel, command=Command(name="id", args=("-u",), user=str(os.geteuid())))
    assert said.out.decode() == f"{os.geteuid()}\n"


async def test_a_cancelled_command_is_killed(channel: GuestChannel) -> None:
    with anyio.move_on_after(1):
        await heard(channel, "sleep", "7671")
    await eventually(lambda: not printed("pgrep", "-f", "^sleep 7671"))


async def test_its_address_is_told_and_connections_are_refused_with_the_reason(channel: GuestChannel) -> None:
    assert bool(await channel.resolve_ip(10)) == bool(printed("hostname", "-I").strip())

    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    async def nowhere(_: bytes) -> None:
        raise AssertionError

    with pytest.raises(AgentCannot, match=r"behind vsock.*cannot carry connections$") as caught:
        await channel.join(22, nothing(), nowhere)
    assert "tart agent install" in (caught.value.hint or "")


async def test_many_at_once_and_one_that_is_not_read(channel: GuestChannel, tmp_path: Path) -> None:
    """A client that stalls holds up no other."""
    blocked, go_on = anyio.Event(), anyio.Event()

    async def stall(_: bytes) -> None:
        blocked.set()
        await go_on.wait()

    codes: list[int | None] = []

    async def one(other: GuestChannel, number: int) -> None:
        codes.append((await heard(other, "sh", "-c", f"exit {number}")).code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(channel.execute, Command(name="head", args=("-c", "50000000", "/dev/zero")), stall, stall)
        await blocked.wait()
        async with connect(tmp_path) as other, anyio.create_task_group() as others:
            for number in range(12):
                others.start_soon(one, other, number)
        assert sorted(code for code in codes if code is not None) == list(range(12))
        tasks.cancel_scope.cancel()


async def test_the_official_client_needs_no_patience(tmp_path: Path) -> None:
    def ask() -> int:
        with grpc.insecure_channel(f"unix:{tmp_path}/control.sock") as made:
            execute = made.stream_stream(
                "/Agent/Exec",
                request_serializer=agent_pb2.ExecRequest.SerializeToString,
                response_deserializer=agent_pb2.ExecResponse.FromString,
            )
            with pytest.raises(grpc.RpcError, match="cannot start no-such: No such file or directory"):
                list(execute(iter([agent_pb2.ExecRequest(command={"name": "no-such"})]), timeout=20))
            words = {"name": "sh", "args": ["-c", "exit 9"]}
            *_, last = execute(iter([agent_pb2.ExecRequest(command=words)]), timeout=20)
            return int(last.exit.code)

    with vsock_agent(tmp_path / "agent.sock"):
        async with served(tmp_path):
            assert await anyio.to_thread.run_sync(ask) == 9


async def test_an_agent_that_dies_ends_its_commands_and_its_successor_is_found(tmp_path: Path) -> None:
    async with served(tmp_path), connect(tmp_path) as channel:
        with vsock_agent(tmp_path / "agent.sock") as process:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_lost, channel)
                await anyio.sleep(1)
                process.kill()
        with vsock_agent(tmp_path / "agent.sock"):
            assert (await heard(channel, "true")).code == 0


async def _lost(channel: GuestChannel) -> None:
    async def nothing_yet() -> AsyncIterator[bytes]:
        await anyio.sleep_forever()
        yield b""

    async def nowhere(_: bytes) -> None:
        raise AssertionError

    with pytest.raises(AgentUnavailable):
        await channel.execute(Command(name="cat", interactive=True), nowhere, nowhere, nothing_yet())


async def test_nobody_there_is_told_in_time(tmp_path: Path) -> None:
    async with served(tmp_path), connect(tmp_path, patience=1) as channel:
        with pytest.raises(AgentUnavailable):
            await heard(channel, "true")


async def test_a_guest_that_boots_is_left_alone(tmp_path: Path) -> None:
    with vsock_agent(tmp_path / "agent.sock"):
        async with served(tmp_path, boot=2) as (agents, wire), connect(tmp_path) as channel:
            with pytest.raises(AgentUnavailable):
                await agents.chosen(0)
            assert not wire.is_plugged
            assert (await heard(channel, "true")).code == 0
            agents.guest_started()
            with pytest.raises(AgentUnavailable):
                await agents.chosen(0)


async def test_our_own_comes_first_and_the_device_goes(tmp_path: Path) -> None:
    with vsock_agent(tmp_path / "agent.sock"), agent_process() as (port, _):
        async with served(tmp_path, own=port) as (agents, wire), connect(tmp_path) as channel:
            await heard(channel, "true")
            assert (channel.agent, wire.is_plugged) == ("tart-agent", False)
            agents.port_changed(Kind.TART, is_open=False)
            await heard(channel, "true")
            assert (channel.agent, wire.is_plugged) == ("vsock-agent", True)
            agents.port_changed(Kind.TART, is_open=True)
            await agents.own.wait_ready(20)
            await heard(channel, "true")
            assert channel.agent == "tart-agent"
            await eventually(lambda: not wire.is_plugged)


async def test_it_comes_before_qemus_which_keeps_nobody_waiting(tmp_path: Path) -> None:
    with vsock_agent(tmp_path / "agent.sock"), scripted_qga() as (port, _):
        async with served(tmp_path, qemu=port, boot=30) as (agents, _), connect(tmp_path) as channel:
            await heard(channel, "true")
            assert channel.agent == "qemu-guest-agent"
            await eventually(lambda: agents.vsock.present)
            await heard(channel, "true")
            assert channel.agent == "vsock-agent"
            assert await agents.answers() is Kind.VSOCK


async def test_where_only_qemus_is_the_device_goes_and_does_not_come_back(tmp_path: Path) -> None:
    with scripted_qga() as (port, _):
        async with served(tmp_path, qemu=port) as (agents, wire), connect(tmp_path) as channel:
            with pytest.raises(AgentCannot, match="which answers in this VM"):
                await heard(channel, command=Command(name="true", tty=True))
            await heard(channel, "true")
            await eventually(lambda: agents.vsock.missing and not wire.is_plugged)
            await heard(channel, "true")
            assert channel.agent == "qemu-guest-agent"
            assert not wire.is_plugged
