"""The shared network in a namespace of its own: who is in it, what it serves, and that no death leaves anything."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskStatus

from namespaces import Namespace
from standing_networks import PARTS, parts
from tap_guest import ACK, TapGuest
from tartlet.network.attachment import Attachment, AttachRequest, BackendUnusable
from tartlet.network.namespace.userns import Userns
from tartlet.network.record import NetworkRecord
from tartlet.network.shared import links, wire
from tartlet.network.shared.addresses import MacTaken
from tartlet.network.status import shared_networks
from vm_lab import until

pytestmark = [pytest.mark.anyio, pytest.mark.needs_root, pytest.mark.usefixtures("inside_private_network")]

SUPERVISOR = """
import anyio, subprocess, sys
from tartlet.network.attachment import AttachRequest
from tartlet.network.namespace.userns import Userns
async def main():
    async with Userns().attach(AttachRequest(vm=sys.argv[1], mac=sys.argv[2])) as attachment:
        print(attachment.record.guest_address, flush=True)
        if "qemu" in sys.argv:
            print(subprocess.Popen(["sleep", "60"], pass_fds=attachment.cables[0].descriptors).pid, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


@pytest.fixture(autouse=True)
def usable() -> None:
    if lack := Userns().lacking():
        pytest.skip(lack.reason)


def mac(number: int) -> str:
    return f"7a:65:e4:3f:be:{number:02x}"


def asking(number: int, keep: NetworkRecord | None = None) -> AttachRequest:
    return AttachRequest(vm=f"tiny{number}", mac=mac(number), keep=keep)


@asynccontextmanager
async def guest(number: int) -> AsyncGenerator[tuple[Attachment, TapGuest]]:
    async with Userns().attach(asking(number)) as attachment:
        yield (
            attachment,
            TapGuest(descriptor=attachment.cables[0].descriptors[0], mac=bytes.fromhex(mac(number).replace(":", ""))),
        )


async def test_vms_share_one_network_which_ends_with_the_last() -> None:
    async with Userns().attach(asking(1)) as first:
        standing = parts()
        assert sorted(standing) == list(PARTS)
        async with Userns().attach(asking(2)) as second:
            assert parts() == standing
            assert first.record.guest_address != second.record.guest_address
            assert first.record.address != second.record.address
        assert parts() == standing
    await anyio.to_thread.run_sync(until, lambda: not parts(), "the network to end")


async def test_a_mac_address_that_comes_free_in_a_moment_is_waited_for() -> None:
    """QEMU outlives a killed supervisor a little, and its VM may be started again at once."""

    async def hold_for_a_moment(*, task_status: TaskStatus[None]) -> None:
        async with Userns().attach(asking(1)):
            task_status.started()
            await anyio.sleep(0.3)

    async with anyio.create_task_group() as tasks:
        await tasks.start(hold_for_a_moment)
        async with Userns().attach(asking(1)):
            pass


async def test_the_hosts_network_is_not_changed(inside_private_network: Namespace) -> None:
    def seen() -> str:
        words = ("ip", "-br", "address"), ("ip", "route"), ("nft", "list", "ruleset")
        return "".join(inside_private_network.run(*line).stdout for line in words)

    before = seen()
    async with Userns().attach(asking(1)):
        assert seen() == before


@pytest.mark.parametrize(
    "identifier",
    [b"", b"\x3d\x07\x01" + bytes(6), b"\x3d\x0b\xff\x12\x34\x56\x78\x00\x01\x00\x01\x2c\x2d", b"\x3d\x03abc"],
    ids=["none", "a-foreign-mac", "duid", "text"],
)
async def test_a_guest_gets_its_reserved_address_whatever_it_calls_itself(identifier: bytes) -> None:
    async with guest(1) as (attachment, tap):
        answer = tap.leased(*([identifier] if identifier else []))
        assert answer is not None
        assert (answer.kind, str(answer.address)) == (ACK, attachment.record.guest_address)
        gateway = IPv4Address("192.168.64.1").packed
        assert (answer.options[3], answer.options[6], answer.options[1]) == (gateway, gateway, b"\xff\xff\xff\x00")
        assert int.from_bytes(answer.options[51], "big") == 86_400


async def test_frames_of_another_mac_address_do_not_get_in() -> None:
    async with guest(1) as (_, tap):
        stranger = TapGuest(descriptor=tap.descriptor, mac=bytes.fromhex("7a65e43fbe99"))
        assert stranger.dhcp(1, within=0.5) is None
        assert tap.leased() is not None


async def test_a_hangup_ends_nothing_and_a_server_that_has_hardly_begun_outlives_a_reload() -> None:
    """A server is told of a new reservation by SIGHUP, which may reach it before it has a handler for it."""
    async with guest(1) as (_, tap):
        standing = parts()
        for part in ("holder", "dnsmasq"):
            os.kill(standing[part], signal.SIGHUP)
        assert _ignores_hangups(standing["holder"])
        assert tap.leased() is not None
        assert parts() == standing


def _ignores_hangups(pid: int) -> bool:
    """What it starts inherits that until it has a handler of its own."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.split("SigIgn:")[1].split()[0], 16) & 1 << (signal.SIGHUP - 1))


@pytest.mark.parametrize("part", ["unshare", "holder"])
async def test_the_process_that_holds_the_network_is_killed_and_the_next_start_repairs(part: str) -> None:
    async with Userns().attach(asking(1)) as attachment:
        with anyio.move_on_after(0.1) as waiting:
            await attachment.lost()
        assert waiting.cancelled_caught
        os.kill(parts()[part], signal.SIGKILL)
        with anyio.fail_after(5):
            assert "the shared network of this user's VMs ended" in str(await attachment.lost())
        await anyio.to_thread.run_sync(until, lambda: not parts(), "everything of it to end")
        async with guest(2) as (_, tap):
            assert tap.leased() is not None


@pytest.mark.parametrize("part", ["dnsmasq", "pasta"])
async def test_a_helper_that_is_killed_is_started_again(part: str) -> None:
    async with guest(1) as (attachment, tap):
        killed = parts()[part]
        os.kill(killed, signal.SIGKILL)
        await anyio.to_thread.run_sync(until, lambda: parts().get(part, killed) != killed, f"another {part}")
        answer = tap.leased()
        assert answer is not None
        assert str(answer.address) == attachment.record.guest_address


async def test_a_helper_that_keeps_dying_is_told() -> None:
    async with Userns().attach(asking(1)) as attachment:
        seen: set[int] = set()
        for _ in range(6):
            await anyio.to_thread.run_sync(until, lambda: parts().get("dnsmasq", 0) not in {0, *seen}, "dnsmasq")
            seen.add(parts()["dnsmasq"])
            os.kill(parts()["dnsmasq"], signal.SIGKILL)
        with anyio.fail_after(5):
            assert "dnsmasq (tart0) keeps ending with status -9" in str(await attachment.lost())


def test_the_network_outlives_the_vm_that_started_it_and_ends_with_killed_supervisors() -> None:
    def started(number: int) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", SUPERVISOR, f"tiny{number}", mac(number)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stdout.readline().startswith("192.168.64.")
        return process

    with started(1) as first, started(2) as second:
        standing = parts()
        first.kill()
        first.wait()
        with started(3) as third:
            assert parts() == standing
            second.kill()
            third.kill()
    until(lambda: not parts(), "the network to end")


async def test_a_place_is_kept_as_long_as_qemu_lives() -> None:
    """QEMU may live a moment longer than its supervisor: until it is gone nobody else gets its address."""
    words = [sys.executable, "-c", SUPERVISOR, "tiny1", mac(1), "qemu"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as supervisor:  # noqa: ASYNC220 - starts at once
        assert supervisor.stdout
        address, qemu = (supervisor.stdout.readline().strip() for _ in range(2))
        supervisor.kill()
    keep = NetworkRecord(backend="userns", address=None, guest_address=address)
    async with Userns().attach(asking(2, keep)) as other:
        assert other.record.guest_address != address
        assert any("has to ask for" in note for note in other.notes)
        os.kill(int(qemu), signal.SIGKILL)
        await anyio.sleep(0.3)
        async with Userns().attach(asking(3, keep)) as third:
            assert third.record.guest_address == address
            assert third.notes == ()


async def test_twenty_at_once_each_with_an_address_of_its_own() -> None:
    attachments = list[Attachment]()

    async def attach(number: int) -> None:
        attachments.append(await held.enter_async_context(Userns().attach(asking(number))))

    async with AsyncExitStack() as held:
        for number in range(1, 21):
            await attach(number)
        assert len({attachment.record.guest_address for attachment in attachments}) == 20
        assert len({attachment.record.address for attachment in attachments}) == 20


def test_twenty_supervisors_start_at_the_same_moment() -> None:
    words = [sys.executable, "-c", SUPERVISOR]
    processes = [
        subprocess.Popen([*words, f"tiny{number}", mac(number)], stdout=subprocess.PIPE, text=True)
        for number in range(20)
    ]
    told = {process.stdout.readline() for process in processes if process.stdout}
    standing = parts()
    for process in processes:
        process.kill()
        process.communicate()
    assert len(told) == 20
    assert sorted(standing) == list(PARTS)
    until(lambda: not parts(), "the network to end")


@pytest.mark.parametrize(
    "nonsense", [b"", b"{", b"[]", b"{}", b'{"do": 1}', b'{"do": "attach"}', b'{"do": "isolate"}', b"\xff" * 1000]
)
async def test_nonsense_hangs_up_on_nobody_but_its_sender(nonsense: bytes) -> None:
    async with guest(1) as (_, tap):
        with wire.new_socket() as connection:
            connection.connect(wire.name("userns"))
            connection.settimeout(5)
            connection.send(nonsense)
            with suppress(ConnectionResetError):
                assert b"networks" not in connection.recv(1000)
        assert tap.leased() is not None


@pytest.mark.parametrize("user", [1000, 65534])
async def test_other_users_are_not_let_in(user: int) -> None:
    name = wire.name("userns")
    script = (
        f"import os, socket; os.setuid({user})\n"
        f"s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect({name!r})\n"
        's.settimeout(5); s.send(b\'{"do": "status"}\'); print(s.recv(1000))'
    )
    async with Userns().attach(asking(1)):
        done = await anyio.run_process([sys.executable, "-c", script], check=False)
        assert b"networks" not in done.stdout
        assert done.stdout.strip() in (b"b''", b"")  # hung up, or the connection reset


async def test_a_network_that_another_user_pretends_to_hold_is_not_used() -> None:
    name = wire.name("userns")
    script = (
        "import os, socket, sys; os.setuid(65534)\n"
        f"s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.bind({name!r}); s.listen()\n"
        "print('.', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=-1, stdout=-1, text=True) as squatter:  # noqa: ASYNC220 - starts at once
        assert squatter.stdout
        squatter.stdout.readline()
        with pytest.raises(BackendUnusable, match="user 65534 pretends to hold the network"):
            async with Userns().attach(asking(1)):
                pass
        squatter.kill()


async def test_without_a_way_out_the_network_stands_and_gets_one_later(inside_private_network: Namespace) -> None:
    assert inside_private_network.run("ip", "route", "del", "default").returncode == 0
    async with guest(1) as (_, tap):
        assert "pasta" not in parts()
        assert tap.leased() is not None
        assert inside_private_network.run("ip", "route", "add", "default", "via", "192.0.2.1").returncode == 0
        await anyio.to_thread.run_sync(until, lambda: "pasta" in parts(), "the way out")


def test_names_are_asked_of_the_hosts_new_server_when_it_gets_another(tmp_path: Path) -> None:
    servers = tmp_path / "resolv.conf"
    servers.write_text("nameserver 192.0.2.53\n")
    inner = f'mount --bind {servers} /etc/resolv.conf && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", inner, "sh", sys.executable, "-c", SUPERVISOR, "tiny1", mac(1)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout
        supervisor.stdout.readline()
        first = parts()["pasta"]
        servers.write_text("nameserver 192.0.2.54\n")
        until(lambda: parts().get("pasta", first) != first, "another pasta", within=12)
        supervisor.kill()
    until(lambda: not parts(), "the network to end")


async def test_twenty_machines_at_once(tmp_path: Path) -> None:
    """QEMU takes each tap, and gives the place back when it is killed."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        pytest.skip("needs qemu-system-x86_64")
    machines = list[subprocess.Popen[bytes]]()
    async with AsyncExitStack() as held:
        for number in range(20):
            attachment = await held.enter_async_context(Userns().attach(asking(number)))
            (cable,) = attachment.cables
            words = [program, "-nodefaults", "-display", "none", "-m", "16", "-S", "-netdev", f"{cable.netdev},id=n"]
            words += ["-device", f"virtio-net-pci,netdev=n,mac={mac(number)},romfile="]
            with (tmp_path / f"{number}.log").open("wb") as log:
                machine = subprocess.Popen(words, pass_fds=cable.descriptors, stderr=log)  # noqa: ASYNC220
            held.callback(machine.wait)
            held.callback(machine.kill)
            machines.append(machine)
        (network,) = await shared_networks()
        assert len({vm.address for vm in network.vms}) == 20
        await anyio.sleep(1)
        assert [machine.poll() for machine in machines] == [None] * 20
        assert [(tmp_path / f"{number}.log").read_text() for number in range(20)] == [""] * 20
    await anyio.to_thread.run_sync(until, lambda: not parts(), "the network to end")


def test_a_missing_program_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    lack = Userns().lacking()
    assert lack is not None
    assert "unshare was not found" in lack.reason
    assert "apt install util-linux" in str(lack.hint)


def test_a_kernel_without_taps_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "TUN", tmp_path / "tun")
    lack = Userns().lacking()
    assert lack is not None
    assert (lack.reason, lack.hint) == (f"{tmp_path}/tun does not exist", "sudo modprobe tun")


async def test_two_vms_with_one_mac_address_are_refused() -> None:
    async with Userns().attach(asking(1)):
        with pytest.raises(MacTaken, match="another VM of this network runs with the MAC address") as caught:
            async with Userns().attach(asking(1)):
                pass
        assert "--random-mac" in str(caught.value.hint)


async def test_a_helper_that_does_not_work_makes_the_network_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "pasta"
    program.write_text("#!/bin/sh\necho no such thing >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(BackendUnusable, match="pasta does not work here: no such thing"):
        async with Userns().attach(asking(1)):
            pass
    until(lambda: not parts(), "everything of it to end")
