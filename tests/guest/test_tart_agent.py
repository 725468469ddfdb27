"""Our own agent through `control.sock`: each row of the table of what an agent does, in the oldest Python and this one.

The agent is the very file that runs in guests, as a process of this host.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from guest_channels import Heard, heard
from host_agents import agent_process, agents_served
from namespaces import namespace
from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentFailed
from tartlet.guest.rpc.channel import GuestChannel, connect

pytestmark = pytest.mark.anyio


def _oldest() -> str:
    found = sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python"))
    return str(found[0]) if found else ""


@dataclass(frozen=True)
class Guest:
    port: socket.socket
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module", params=["this", "oldest"])
def guest(request: pytest.FixtureRequest) -> Generator[Guest]:
    """One agent for all tests; each begins a session of its own."""
    python = sys.executable if request.param == "this" else _oldest()
    if not python:
        pytest.skip("there is no Python 3.8 here")
    with agent_process(python) as (port, process):
        yield Guest(port, process)


@pytest.fixture
async def channel(guest: Guest, tmp_path: Path) -> AsyncIterator[GuestChannel]:
    async with agents_served(tmp_path, guest.port), connect(tmp_path, patience=10) as channel:
        yield channel


async def told(channel: GuestChannel, *words: str, stdin: bytes | None = None) -> Heard:
    return await heard(channel, *words, stdin=stdin)


async def gone(words: str) -> None:
    """Wait until this host runs no process with these words."""
    for _ in range(500):
        if not _runs(words):
            return
        await anyio.sleep(0.02)
    pytest.fail(f"{words} still runs")


def _runs(words: str) -> bool:
    return bool(subprocess.run(["pgrep", "-f", words], capture_output=True, check=False).stdout)


async def test_both_outputs_apart_and_the_exit_code(channel: GuestChannel) -> None:
    said = await told(channel, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (said.code, said.out, said.err) == (7, b"out\n", b"err\n")
    assert channel.agent == "tart-agent"


async def test_there_is_no_shell_in_between(channel: GuestChannel) -> None:
    words = ["a b", "$HOME", "'", '"', "*", "", "-n", "--", "ä\n"]
    said = await told(channel, "printf", "<%s>", *words)
    assert said.out.decode() == "".join(f"<{word}>" for word in words)


@pytest.mark.parametrize("size", [0, 1, 4096, 32768, 3_000_001])
async def test_input_and_output_are_binary_safe(channel: GuestChannel, size: int) -> None:
    data = os.urandom(size)
    said = await told(channel, "cat", stdin=data)
    assert (said.code, said.out == data) == (0, True)


async def test_input_that_holds_the_mark_of_a_session_is_only_input(channel: GuestChannel) -> None:
    data = (b"\0\xfdTart agent 1\r\n" + bytes(8)) * 5000
    assert (await told(channel, "cat", stdin=data)).out == data


async def test_output_comes_while_the_command_runs(channel: GuestChannel) -> None:
    pieces: list[bytes] = []
    came = anyio.Event()

    async def talk() -> AsyncIterator[bytes]:
        nonlocal came
        for number in range(3):
            came = anyio.Event()
            yield b"%d\n" % number
            with anyio.fail_after(5):
                await came.wait()

    async def take(data: bytes) -> None:
        pieces.append(data)
        if data.endswith(b"\n"):
            came.set()

    assert await channel.execute(Command(name="cat", interactive=True), take, take, talk()) == 0
    assert b"".join(pieces) == b"0\n1\n2\n"


async def test_without_interest_in_input_it_is_the_null_device(channel: GuestChannel) -> None:
    said = await told(channel, "cat")
    assert (said.code, said.out) == (0, b"")


async def test_input_a_command_does_not_read_does_not_keep_it(channel: GuestChannel) -> None:
    with anyio.fail_after(10):
        assert (await told(channel, "true", stdin=bytes(5_000_000))).code == 0
        assert (await told(channel, "sh", "-c", "exec <&-; sleep 0.3; exit 3", stdin=bytes(5_000_000))).code == 3


async def test_a_signal_is_minus_one(channel: GuestChannel) -> None:
    assert (await told(channel, "sh", "-c", "kill -9 $$")).code == -1


async def test_the_end_is_when_all_outputs_have_ended(channel: GuestChannel) -> None:
    said = await told(channel, "sh", "-c", "(sleep 0.5; echo late) & exit 4")
    assert (said.code, said.out) == (4, b"late\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no-such-program", "no-such-program: not found in /usr/local/sbin:"),
        ("/no/such/program", "/no/such/program: no such file"),
        ("/etc/passwd", "/etc/passwd: cannot be executed"),
        ("/etc", "/etc: cannot be executed"),
        ("cd", "cd: not found in "),
        ("", ": not found in "),
        ("a\0b", r"a\x00b: not found in "),
        ("x\x1b[31m", r"x\x1b[31m: not found in "),
    ],
)
async def test_what_cannot_be_started_is_told(channel: GuestChannel, name: str, text: str) -> None:
    with pytest.raises(AgentFailed) as caught:
        await told(channel, name)
    assert str(caught.value).startswith(text)


async def test_variables_and_folder(channel: GuestChannel) -> None:
    command = Command(
        name="sh",
        args=("-c", 'pwd; printf "%s|%s|%s" "$GREETING" "$PATH_LIKE" "$PATH"'),
        env={"GREETING": "a b=ä\n'", "PATH_LIKE": "$PATH"},
        workdir="/etc",
    )
    said = await heard(channel, command=command)
    assert said.out.decode().startswith("/etc\na b=ä\n'|$PATH|/usr/local/sbin:")


async def test_a_folder_that_is_not_there_is_told(channel: GuestChannel) -> None:
    with pytest.raises(AgentFailed, match="cannot enter the folder /no/such") as caught:
        await heard(channel, command=Command(name="true", workdir="/no/such"))
    assert "a folder of the guest" in (caught.value.hint or "")


async def test_nothing_of_the_agent_leaks_into_a_command(channel: GuestChannel) -> None:
    said = await told(channel, "sh", "-c", "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; umask; env")
    assert said.out.split()[:3] == [b"0", b"1", b"2"]
    assert re.findall(rb"Sig...:\s+(\w+)", said.out) == [b"0" * 16, b"0" * 16]
    names = set(re.findall(r"^(\w+)=", said.out.decode(), re.MULTILINE))
    assert names <= {"HOME", "LANG", "LOGNAME", "OLDPWD", "PATH", "PWD", "SHELL", "TZ", "USER", "SHLVL", "_"}


@pytest.mark.needs_root
async def test_commands_run_as_whom_the_host_says(channel: GuestChannel) -> None:
    said = await heard(channel, command=Command(name="sh", args=("-c", "id -un; id -Gn; echo $HOME"), user="daemon"))
    assert said.out.split() == [b"daemon", b"daemon", b"/usr/sbin"]
    with pytest.raises(AgentFailed, match="the guest has no user nobody-knows") as caught:
        await heard(channel, command=Command(name="true", user="nobody-knows"))
    assert "/etc/passwd" in (caught.value.hint or "")


async def test_a_terminal_is_a_real_one(channel: GuestChannel) -> None:
    script = "tty >/dev/null && stty size && echo $TERM && ps -o tpgid= -p $$ | tr -d ' ' && echo $$ && echo err >&2"
    said = await heard(channel, command=Command(name="sh", args=("-c", script), tty=True, size=(40, 100)))
    lines = said.out.decode().split("\r\n")
    assert lines[:2] == ["40 100", "xterm-256color"]
    assert lines[2] == lines[3]  # in the foreground, so a Ctrl+C reaches it
    assert lines[4] == "err"
    assert (said.code, said.err) == (0, b"")


async def test_the_end_of_input_ends_what_reads_a_terminal(channel: GuestChannel) -> None:
    async def typed() -> AsyncIterator[bytes]:
        yield b"hello\n"

    said = Heard()
    command = Command(name="cat", tty=True, interactive=True)
    with anyio.fail_after(20):
        code = await channel.execute(command, said.take_out, said.take_err, typed())
    assert (code, said.out) == (0, b"hello\r\nhello\r\n")


async def test_a_byte_of_interrupt_interrupts(channel: GuestChannel) -> None:
    async def typed() -> AsyncIterator[bytes]:
        await ready.wait()
        yield b"\x03"
        await anyio.sleep_forever()

    async def out(_: bytes) -> None:
        ready.set()

    ready = anyio.Event()
    command = Command(name="sh", args=("-c", "echo ready; exec sleep 3600"), tty=True, interactive=True)
    with anyio.fail_after(20):
        assert await channel.execute(command, out, out, typed()) == -1


async def test_a_new_size_is_told_to_the_command(channel: GuestChannel) -> None:
    ready = anyio.Event()
    said = Heard()

    async def out(data: bytes) -> None:
        await said.take_out(data)
        if b"ready" in said.out:
            ready.set()

    async def sizes() -> AsyncIterator[tuple[int, int]]:
        await ready.wait()
        yield 50, 132

    script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"
    command = Command(name="sh", args=("-c", script), tty=True)
    with anyio.fail_after(10):
        await channel.execute(command, out, out, sizes=sizes())
    assert b"50 132" in said.out


async def test_cancelling_kills_the_command_and_its_children(channel: GuestChannel) -> None:
    with anyio.move_on_after(0.5):
        await told(channel, "sh", "-c", "sleep 7654 & sleep 7655")
    await gone("^sleep 765[45]")


async def test_a_lost_client_kills_the_command(channel: GuestChannel, tmp_path: Path) -> None:
    with anyio.move_on_after(0.5):
        async with connect(tmp_path) as other:
            await told(other, "sleep", "7656")
    await gone("^sleep 7656")
    assert (await told(channel, "true")).code == 0


async def test_a_detached_command_outlives_the_call_and_the_session(
    channel: GuestChannel, tmp_path: Path, guest: Guest
) -> None:
    mark = tmp_path / "mark"
    script = f"echo lost; sleep 2; echo kept > {mark}.half; mv {mark}.half {mark}"
    said = await heard(channel, command=Command(name="sh", args=("-c", script), detach=True))
    assert (said.code, said.out) == (0, b"")
    assert not mark.exists()
    guest.port.send(b"\xee" * 64)  # which ends the session
    with anyio.fail_after(20):
        while not mark.exists():  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.05)
    assert mark.read_text() == "kept\n"


async def test_a_detached_command_that_cannot_start_is_told(channel: GuestChannel) -> None:
    with pytest.raises(AgentFailed, match="not found in"):
        await heard(channel, command=Command(name="no-such-program", detach=True))
    with pytest.raises(AgentFailed, match="neither input nor terminal"):
        await heard(channel, command=Command(name="true", detach=True, tty=True))


async def test_many_at_once_and_none_waits_for_another(channel: GuestChannel) -> None:
    codes: list[int | None] = []

    async def run(number: int) -> None:
        codes.append((await told(channel, "sh", "-c", f"sleep 1; exit {number}")).code)

    begun = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(run, number)
    assert sorted(code or 0 for code in codes) == list(range(20))
    assert anyio.current_time() - begun < 4


async def test_more_commands_than_the_agent_takes_are_refused_and_harm_nothing(
    channel: GuestChannel, tmp_path: Path
) -> None:
    refused: list[str] = []
    enough = anyio.Event()

    async def run(by: GuestChannel) -> None:
        try:
            await told(by, "sleep", "7657")
        except AgentFailed as exc:
            refused.append(str(exc))
            if len(refused) == 10:
                enough.set()

    async with (
        connect(tmp_path) as second,
        connect(tmp_path) as third,  # a connection has 100 calls at most
        anyio.create_task_group() as tasks,
    ):
        for number in range(210):
            tasks.start_soon(run, (channel, second, third)[number % 3])
        await enough.wait()
        tasks.cancel_scope.cancel()
    assert refused == ["too many commands run at once in the guest"] * 10
    await gone("^sleep 7657")
    assert (await told(channel, "true")).code == 0


async def test_a_command_of_two_megabytes_of_words(channel: GuestChannel) -> None:
    words = ["x" * 100_000] * 18
    said = await told(channel, "sh", "-c", 'printf "%s" "$@" | wc -c', "sh", *words)
    assert said.out.strip() == b"1800000"
    with pytest.raises(AgentFailed, match="Argument list too long"):
        await told(channel, "true", *words, *words)


async def test_the_address_is_that_of_the_interface_with_the_mac_or_of_the_first() -> None:
    module = "tartlet.guest.own_agent.tart_agent"
    script = f"import sys; from {module} import address; print([address(mac) for mac in sys.argv[1:]])"
    with namespace(uplink=True) as inside:
        assert inside.run("ip", "addr", "add", "192.0.2.8/24", "dev", "up1").returncode == 0
        mac = inside.run("cat", "/sys/class/net/up0/address").stdout.strip()
        other = inside.run("ip", "-o", "link", "show", "up1").stdout.partition("link/ether ")[2].split()[0]
        said = inside.run(sys.executable, "-c", script, other.upper(), "52:54:00:00:00:99")
        assert said.stdout.startswith("['192.0.2.8', '192.0.2."), (said, mac)
    with namespace() as inside:
        assert inside.run(sys.executable, "-c", script, "52:54:00:00:00:99").stdout == "['']\n"


async def test_a_guest_without_an_address_has_none_yet(channel: GuestChannel) -> None:
    assert await channel.resolve_ip(5) in (None, *_addresses())


def _addresses() -> list[str]:
    told = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True)
    return told.stdout.split()


async def test_waiting_costs_no_processor_time(channel: GuestChannel, guest: Guest) -> None:
    def used() -> int:
        fields = Path(f"/proc/{guest.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = used()
    await told(channel, "sh", "-c", "exec >/dev/null; sleep 1", stdin=b"")
    command = Command(name="sleep", args=("1",), tty=True, interactive=True)
    await heard(channel, command=command, stdin=b"")
    assert used() - before <= 10  # hundredths of a second


async def test_a_command_that_floods_waits_for_a_slow_reader(channel: GuestChannel, guest: Guest) -> None:
    taken = 0

    async def slowly(data: bytes) -> None:
        nonlocal taken
        taken += len(data)
        await anyio.sleep(0.01)

    with anyio.move_on_after(2):
        await channel.execute(Command(name="yes"), slowly, slowly)
    assert taken > 0
    assert _most_memory(guest.process.pid) < 40_000
    await gone("^yes$")
    assert (await told(channel, "true")).code == 0


def _most_memory(pid: int) -> int:
    """KiB the process ever had at once."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak is not None
    return int(peak[1])


async def test_a_stopped_agent_is_waited_for(channel: GuestChannel, guest: Guest) -> None:
    guest.process.send_signal(signal.SIGSTOP)
    codes: list[int | None] = []
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            codes.append((await told(channel, "sh", "-c", "exit 5")).code)

        tasks.start_soon(run)
        await anyio.sleep(0.5)
        assert codes == []
        guest.process.send_signal(signal.SIGCONT)
    assert codes == [5]


async def test_it_gives_way_when_its_last_command_has_ended(tmp_path: Path) -> None:
    with agent_process() as (port, process):
        async with agents_served(tmp_path, port), connect(tmp_path, patience=10) as channel:
            script = f"kill -HUP {process.pid}; sleep 0.5; echo whole"
            assert (await told(channel, "sh", "-c", script)).out == b"whole\n"
        assert await anyio.to_thread.run_sync(process.wait, 5) == 0


async def test_one_that_has_nothing_to_do_gives_way_at_once(tmp_path: Path) -> None:
    with agent_process() as (port, process):
        async with agents_served(tmp_path, port), connect(tmp_path, patience=10) as channel:
            await told(channel, "true")
            process.send_signal(signal.SIGHUP)
            assert await anyio.to_thread.run_sync(process.wait, 5) == 0


async def test_an_agent_that_shall_stop_waits_for_the_host(tmp_path: Path) -> None:
    with agent_process() as (port, process):
        async with agents_served(tmp_path, port) as agents, connect(tmp_path, patience=10) as channel:
            done: list[bytes] = []

            async def act() -> None:
                done.append((await heard(channel, "echo", "still here")).out)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(agents.before_shutdown, act)
                await heard(channel, "true")
                process.terminate()
                process.terminate()
                assert await anyio.to_thread.run_sync(process.wait, 10) == 0
                tasks.cancel_scope.cancel()
            assert done == [b"still here\n"]


async def test_a_host_that_waits_for_its_end_keeps_no_agent_from_giving_way(tmp_path: Path) -> None:
    with agent_process() as (port, process):
        async with (
            agents_served(tmp_path, port) as agents,
            connect(tmp_path, patience=10) as channel,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(agents.before_shutdown, anyio.sleep_forever)
            await heard(channel, "true")
            process.send_signal(signal.SIGHUP)
            assert await anyio.to_thread.run_sync(process.wait, 10) == 0
            tasks.cancel_scope.cancel()


async def test_an_agent_that_nobody_holds_stops_at_once(tmp_path: Path) -> None:
    with agent_process() as (port, process):
        async with agents_served(tmp_path, port), connect(tmp_path, patience=10) as channel:
            await heard(channel, "true")
            process.terminate()
            assert await anyio.to_thread.run_sync(process.wait, 10) == 0
