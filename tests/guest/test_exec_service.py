"""Commands through `control.sock`: every row that a whole-at-once agent can meet, before a fake and a real guest.

Specification: the table of what a server of agent.proto does.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from guest_channels import Heard, heard, only, served
from machines import MAC, mini_machine, text_in
from scripted_qga import scripted_qga
from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentCannot, AgentFailed, AgentUnavailable
from tartlet.guest.qga.agent import QemuGuestAgent
from tartlet.guest.rpc.channel import GuestChannel, connect
from tartlet.guest.service.service import serving
from tartlet.host.sockets import listening

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Guest:
    """A guest with its agent up."""

    port: socket.socket
    real: bool


@pytest.fixture(scope="module", params=["fake", "real"])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Guest]:
    """One guest for all tests of this file; each test makes a client of its own, which resynchronises."""
    if request.param == "fake":
        with scripted_qga() as (port, _):
            yield Guest(port, real=False)
        return
    with mini_machine(tmp_path_factory.mktemp("guest")) as machine:
        anyio.run(text_in, machine.serial_log, "READY")
        anyio.run(text_in, machine.serial_log, "ADDRESS")
        yield Guest(machine.agent, real=True)


async def told(guest: Guest, folder: Path, *words: str, stdin: bytes | None = None) -> Heard:
    async with served(folder, guest.port, MAC), connect(folder) as channel:
        return await heard(channel, *words, stdin=stdin)


async def asked(guest: Guest, folder: Path, command: Command) -> Heard:
    async with served(folder, guest.port, MAC), connect(folder) as channel:
        return await heard(channel, command=command)


async def gone(channel: GuestChannel, words: str) -> None:
    """Wait until the guest runs no process with these words."""
    script = 'cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\\0" " "'
    for _ in range(100):
        if words.encode() not in (await heard(channel, "sh", "-c", script)).out:
            return
        await anyio.sleep(0.05)
    pytest.fail(f"{words} still runs")


async def test_both_outputs_apart_and_the_exit_code(guest: Guest, tmp_path: Path) -> None:
    said = await told(guest, tmp_path, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (said.code, said.out, said.err) == (7, b"out\n", b"err\n")


async def test_there_is_no_shell_in_between(guest: Guest, tmp_path: Path) -> None:
    words = ["a b", "$HOME", "'", '"', "*", "", "-n", "--", "ä\n"]
    said = await told(guest, tmp_path, "printf", "<%s>", *words)
    assert said.out.decode() == "".join(f"<{word}>" for word in words)


@pytest.mark.parametrize("size", [0, 1, 4096, 3_000_000])
async def test_input_and_output_are_binary_safe(guest: Guest, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    said = await told(guest, tmp_path, "cat", stdin=data)
    assert (said.code, said.out == data) == (0, True)


async def test_without_interest_in_input_it_is_the_null_device(guest: Guest, tmp_path: Path) -> None:
    said = await told(guest, tmp_path, "cat")
    assert (said.code, said.out) == (0, b"")


async def test_a_signal_is_minus_one(guest: Guest, tmp_path: Path) -> None:
    assert (await told(guest, tmp_path, "sh", "-c", "kill -9 $$")).code == -1


async def test_a_command_that_ends_with_127_itself_is_no_failure_to_start(guest: Guest, tmp_path: Path) -> None:
    said = await told(guest, tmp_path, "sh", "-c", "echo 0123 lost >&2; exit 127")
    assert (said.code, said.err) == (127, b"0123 lost\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no-such-program", "no-such-program: not found in /usr/local/sbin:"),
        ("/no/such/program", "/no/such/program: no such file"),
        ("/etc/passwd", "/etc/passwd: cannot be executed"),
        ("/etc", "/etc: cannot be executed"),
        ("cd", "cd: not found in "),
        ("--", "--: not found in "),
        ("", ": not found in "),
        ("x\x1b[31m", r"x\x1b[31m: not found in "),
    ],
)
async def test_what_cannot_be_started_is_told(guest: Guest, tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(AgentFailed) as caught:
        await told(guest, tmp_path, name)
    assert str(caught.value).startswith(text)
    assert ("whole path" in (caught.value.hint or "")) == ("not found" in text)


async def test_variables_and_folder(guest: Guest, tmp_path: Path) -> None:
    env = {"GREETING": "a b=c\n'", "-x": "1", "PATH_LIKE": "$PATH"}
    words = ("-c", 'pwd; printf "%s|%s|%s" "$GREETING" "$PATH_LIKE" "$PATH"')
    said = await asked(guest, tmp_path, Command(name="sh", args=words, env=env, workdir="/etc"))
    assert said.out.decode().startswith("/etc\na b=c\n'|$PATH|/usr/local/sbin:")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (Command(name="true", workdir="/no/folder"), "cannot enter the folder /no/folder"),
        (Command(name="true", env={"A=B": "c"}), "the name of an environment variable"),
        (Command(name="true", env={"": "c"}), "the name of an environment variable"),
        (Command(name="echo", args=("a\0b",)), "a word of the command holds a zero byte"),
    ],
)
async def test_what_no_program_can_be_given_is_refused(
    guest: Guest, tmp_path: Path, command: Command, text: str
) -> None:
    with pytest.raises(AgentFailed, match=text) as caught:
        await asked(guest, tmp_path, command)
    assert ("--workdir" in (caught.value.hint or "")) == bool(command.workdir)


@pytest.mark.parametrize("command", [Command(name="true", tty=True), Command(name="true", detach=True)])
async def test_what_takes_another_agent_is_refused_with_that_reason(
    guest: Guest, tmp_path: Path, command: Command
) -> None:
    with pytest.raises(AgentCannot, match=r"QEMU guest agent.*cannot [^;]+$") as caught:
        await asked(guest, tmp_path, command)
    assert (caught.value.hint or "").startswith("that takes Tartlet's own agent")


async def test_output_that_was_cut_arrives_and_is_an_error(guest: Guest, tmp_path: Path) -> None:
    said = Heard()
    async with served(tmp_path, guest.port, MAC), connect(tmp_path) as channel:
        command = Command(name="head", args=("-c", "17000000", "/dev/zero"))
        with pytest.raises(AgentFailed, match=r"the output was cut.*16 MiB.*ended with 0"):
            await channel.execute(command, said.take_out, said.take_err)
    assert len(said.out) == 16 << 20


async def test_too_much_input_is_refused(guest: Guest, tmp_path: Path) -> None:
    with pytest.raises(AgentFailed, match="more than 16 MiB of standard input"):
        await told(guest, tmp_path, "cat", stdin=bytes(17 << 20))


async def test_a_client_that_gives_up_kills_its_command(guest: Guest, tmp_path: Path) -> None:
    async with served(tmp_path, guest.port, MAC), connect(tmp_path) as channel:
        with anyio.move_on_after(0.5):
            await heard(channel, "sleep", "8642")
        await gone(channel, "sleep 8642")


async def test_a_client_that_hangs_up_kills_its_command(guest: Guest, tmp_path: Path) -> None:
    async with served(tmp_path, guest.port, MAC):
        with anyio.move_on_after(0.5):
            async with connect(tmp_path) as channel:
                await heard(channel, "sleep", "9753")
        async with connect(tmp_path) as channel:
            await gone(channel, "sleep 9753")


async def test_commands_run_side_by_side(guest: Guest, tmp_path: Path) -> None:
    async with served(tmp_path, guest.port, MAC), connect(tmp_path) as first, connect(tmp_path) as second:
        codes: list[int | None] = []

        async def run(number: int) -> None:
            said = await heard((first, second)[number % 2], "sh", "-c", f"sleep 1; exit {number}")
            codes.append(said.code)

        begun = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(run, number)
        assert sorted(code or 0 for code in codes) == [0, 1, 2, 3, 4, 5]
        assert anyio.current_time() - begun < 4


async def test_the_address_is_that_of_the_vms_own_interface(guest: Guest, tmp_path: Path) -> None:
    async with served(tmp_path, guest.port, MAC), connect(tmp_path) as channel:
        assert await channel.resolve_ip(5) == "10.0.2.15"
    async with served(tmp_path, guest.port, "52:54:00:00:00:99"), connect(tmp_path) as channel:
        assert await channel.resolve_ip(5) is None


async def test_commands_run_as_admin_where_the_guest_has_that_user(guest: Guest, tmp_path: Path) -> None:
    said = await told(guest, tmp_path, "sh", "-c", 'id -un; echo "$USER $HOME"; pwd')
    if guest.real:
        assert said.out.decode().split() == ["admin", "admin", "/home/admin", "/home/admin"]
    else:
        assert said.out.decode().split()[0] != "admin"


async def test_without_an_agent_the_answer_comes_at_once(guest: Guest, tmp_path: Path) -> None:
    agent = QemuGuestAgent(guest.port)
    with only(agent, MAC) as agents, listening(tmp_path, "control.sock") as listener:
        async with serving(listener, agents), connect(tmp_path, patience=0) as channel:
            with anyio.fail_after(20), pytest.raises(AgentUnavailable, match="no guest agent answers") as caught:
                await heard(channel, "true")
            assert "qemu-guest-agent" in (caught.value.hint or "")
            assert await channel.resolve_ip() is None


async def test_a_patient_client_is_served_when_the_agent_appears(guest: Guest, tmp_path: Path) -> None:
    agent = QemuGuestAgent(guest.port)
    with only(agent, MAC) as agents, listening(tmp_path, "control.sock") as listener:
        async with (
            serving(listener, agents),
            connect(tmp_path, patience=20) as channel,
            anyio.create_task_group() as tasks,
        ):

            async def appear() -> None:
                await anyio.sleep(0.3)
                agent.port_opened()

            tasks.start_soon(appear)
            assert (await heard(channel, "true")).code == 0


async def test_the_end_of_the_vm_ends_calls_and_connections(guest: Guest, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        async with served(tmp_path, guest.port, MAC):

            async def wait() -> None:
                async with connect(tmp_path) as channel:
                    with pytest.raises(AgentUnavailable):
                        await heard(channel, "sleep", "5000")
                    ended.set()

            ended = anyio.Event()
            tasks.start_soon(wait)
            await anyio.sleep(0.5)
        with anyio.fail_after(20):
            await ended.wait()


async def test_only_the_owner_may_connect(guest: Guest, tmp_path: Path) -> None:
    async with served(tmp_path, guest.port, MAC):
        assert stat.S_IMODE((tmp_path / "control.sock").stat().st_mode) == 0o600


async def test_it_works_in_a_folder_with_a_path_of_300_characters(guest: Guest, tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 150) / ("e" * 150)
    folder.mkdir(parents=True)
    said = await told(guest, folder, "echo", "far")
    assert said.out == b"far\n"


async def test_input_that_never_ends_does_not_keep_a_command_that_was_refused(guest: Guest, tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await anyio.sleep_forever()

    async with served(tmp_path, guest.port, MAC), connect(tmp_path) as channel:
        said = Heard()
        command = Command(name="true", interactive=True, tty=True)
        with anyio.fail_after(5), pytest.raises(AgentCannot):
            await channel.execute(command, said.take_out, said.take_err, endless())
