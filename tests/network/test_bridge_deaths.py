"""Whoever is killed, in whatever order: no guest is heard without its rules, nothing stays, the next start works."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from host_networks import gone, installed, processes, things_left
from namespaces import UPLINK_ADDRESS
from tap_guest import TapGuest
from tartlet.network.attachment import Attachment, AttachRequest, NetworkMode
from tartlet.network.bridge import bridge
from tartlet.network.bridge.bridge import Bridge
from uplink import PORT, echo
from vm_lab import until

pytestmark = [pytest.mark.anyio, pytest.mark.needs_root, pytest.mark.usefixtures("inside_private_network")]

BRIDGE = Bridge(on_demand=True)
GATEWAY = "192.168.64.1"
SUPERVISOR = """
import anyio, subprocess, sys
from tartlet.network.attachment import AttachRequest, NetworkMode
from tartlet.network.bridge.bridge import Bridge
async def main():
    request = AttachRequest(vm=sys.argv[1], mac=sys.argv[2], mode=NetworkMode.SOFTNET, allow="192.0.2.0/24")
    async with Bridge(on_demand=True).attach(request) as attachment:
        qemu = subprocess.Popen(["sleep", "60"], pass_fds=attachment.cables[0].descriptors)
        print(qemu.pid, attachment.record.address, flush=True)
        print(await attachment.lost(), flush=True)
        qemu.kill()
anyio.run(main)
"""


def asking(number: int) -> AttachRequest:
    mac = f"7a:65:e4:3f:be:{number:02x}"
    return AttachRequest(vm=f"tiny{number}", mac=mac, mode=NetworkMode.SOFTNET, allow="192.0.2.0/24")


@asynccontextmanager
async def guest(number: int, request: AttachRequest | None = None) -> AsyncGenerator[tuple[Attachment, TapGuest]]:
    """A guest that has its address."""
    async with BRIDGE.attach(request or asking(number)) as attachment:
        mac = bytes.fromhex(f"7a65e43fbe{number:02x}")
        tap = TapGuest(descriptor=attachment.cables[0].descriptors[0], mac=mac)
        assert tap.leased() is not None
        yield attachment, tap


def told(channel: socket.socket, allow: list[str]) -> None:
    """Set the policy over a control channel."""
    params = {"allow": allow, "block": list[str]()}
    question = {"jsonrpc": "2.0", "id": 1, "method": "softnet.policy.set", "params": params}
    channel.settimeout(10)
    channel.sendall(json.dumps(question).encode() + b"\n")
    assert "result" in json.loads(channel.recv(65536))


@contextmanager
def supervisor(number: int) -> Generator[tuple[subprocess.Popen[str], int, str]]:
    """A VM's supervisor with the number of what stands for its QEMU, and the guest's address."""
    request = asking(number)
    words = [sys.executable, "-c", SUPERVISOR, request.vm, request.mac]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid, address = process.stdout.readline().split()
        try:
            yield process, int(pid), address
        finally:
            process.kill()
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("order", list(itertools.permutations(["supervisor", "qemu", "process"])), ids="-".join)
def test_in_every_order(order: tuple[str, ...]) -> None:
    with supervisor(1) as (running, qemu, _):
        victims = {"supervisor": running.pid, "qemu": qemu, **processes()}
        for name in (*order, "dnsmasq"):
            with suppress(ProcessLookupError):
                os.kill(victims[name], signal.SIGKILL)
    gone()


async def test_the_next_start_repairs_after_the_process_was_killed_and_a_guest_lives_on() -> None:
    with supervisor(1) as (running, qemu, address):
        os.kill(running.pid, signal.SIGSTOP)  # it does not hear of it
        os.kill(processes()["process"], signal.SIGKILL)
        await anyio.to_thread.run_sync(until, lambda: not processes(), "the process to be gone")
        async with BRIDGE.attach(asking(2)) as attachment:
            tap = TapGuest(descriptor=attachment.cables[0].descriptors[0], mac=bytes.fromhex("7a65e43fbe02"))
            assert tap.leased() is not None
            assert attachment.record.address != address
            os.kill(qemu, signal.SIGKILL)
            running.kill()
            await anyio.sleep(0.3)  # the former caretaker finds another bridge, and leaves it alone
            assert tap.hardware_of(str(attachment.record.address), GATEWAY) is not None
    await anyio.to_thread.run_sync(gone)


async def test_a_guest_is_mute_when_the_process_is_killed() -> None:
    with echo():
        async with guest(1) as (attachment, tap):
            own = str(attachment.record.address)
            assert tap.reaches(own, GATEWAY, UPLINK_ADDRESS, PORT)
            os.kill(processes()["process"], signal.SIGKILL)
            await anyio.to_thread.run_sync(until, _no_own_rules, "its rules to be gone")
            assert tap.hardware_of(own, GATEWAY, within=1) is None
            assert not tap.reaches(own, GATEWAY, UPLINK_ADDRESS, PORT, within=0.5)
    await anyio.to_thread.run_sync(gone)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_guests_move_to_the_next_process_with_their_taps_addresses_and_rules(how: signal.Signals) -> None:
    ours, theirs = socket.socketpair()
    request = replace(asking(1), control_descriptor=theirs.detach(), expose="8022:22")
    with echo(), ours:
        async with guest(2) as (second, other), guest(1, request) as (first, tap), anyio.create_task_group() as tasks:
            await anyio.to_thread.run_sync(told, ours, ["192.0.2.0/24", "203.0.113.0/24"])
            for attachment in (first, second):
                tasks.start_soon(_watched, attachment)
            former = processes()["process"]
            os.kill(former, how)
            await anyio.to_thread.run_sync(until, lambda: processes().get("process", former) != former, "the next")
            for attachment, one in ((first, tap), (second, other)):
                back = partial(one.reaches, str(attachment.record.address), GATEWAY, UPLINK_ADDRESS, PORT, within=0.5)
                await anyio.to_thread.run_sync(until, back, "the guest to be on the network again")
                answer = one.leased()
                assert answer is not None
                assert str(answer.address) == attachment.record.address
            assert first.filter_state is not None
            assert (await first.filter_state()).allow == ("192.0.2.0/24", "203.0.113.0/24")
            await anyio.to_thread.run_sync(told, ours, list[str]())
            assert not tap.reaches(str(first.record.address), GATEWAY, UPLINK_ADDRESS, PORT, within=0.5)
            tasks.cancel_scope.cancel()
    await anyio.to_thread.run_sync(gone)


async def test_where_no_other_process_comes_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_MOVING", 0.5)
    with installed(tmp_path) as path:
        monkeypatch.setenv("TART_NET_SOCKET", str(path))
        async with Bridge().attach(asking(1)) as attachment:
            os.kill(processes()["process"], signal.SIGKILL)
            path.unlink()
            with anyio.fail_after(10):
                assert "its process ended, and no other takes the VM in" in str(await attachment.lost())
        path.touch()
    await anyio.to_thread.run_sync(gone)


@pytest.mark.parametrize("part", ["dnsmasq", "caretaker"])
async def test_a_program_that_is_killed_is_started_again(part: str) -> None:
    async with BRIDGE.attach(asking(1)) as attachment:
        killed = processes()[part]
        os.kill(killed, signal.SIGKILL)
        await anyio.to_thread.run_sync(until, lambda: processes().get(part, killed) != killed, f"another {part}")
        tap = TapGuest(descriptor=attachment.cables[0].descriptors[0], mac=bytes.fromhex("7a65e43fbe01"))
        answer = tap.leased()
        assert answer is not None
        assert str(answer.address) == attachment.record.address
    await anyio.to_thread.run_sync(gone)


async def test_a_program_that_keeps_dying_is_told() -> None:
    async with BRIDGE.attach(asking(1)) as attachment:
        seen: set[int] = set()
        for _ in range(6):
            await anyio.to_thread.run_sync(until, lambda: processes().get("dnsmasq", 0) not in {0, *seen}, "dnsmasq")
            seen.add(processes()["dnsmasq"])
            os.kill(processes()["dnsmasq"], signal.SIGKILL)
        with anyio.fail_after(5):
            assert "dnsmasq (tart0) keeps ending with status -9" in str(await attachment.lost())
    await anyio.to_thread.run_sync(gone)


def _no_own_rules() -> bool:
    return not any("tart_tartv" in thing for thing in things_left())


async def _watched(attachment: Attachment) -> None:
    raise await attachment.lost()
