"""Softnet's policy, host-only networks and isolation, in a network of a namespace and in the host's own."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import dns.message
import pytest

from host_networks import processes
from leftovers import process_ids
from namespaces import UPLINK_ADDRESS
from tap_guest import ACK, TapGuest, arp_frame, udp_frame
from tartlet.errors import InvalidArgument
from tartlet.network.attachment import Attachment, AttachRequest, BackendUnusable, NetworkMode
from tartlet.network.backend import NetworkBackend
from tartlet.network.bridge.bridge import Bridge
from tartlet.network.namespace.userns import Userns
from tartlet.network.rules.refusals import logged
from tartlet.network.shared.addresses import MacTaken
from tartlet.network.shared.loopback import PortTaken
from uplink import PORT, echo
from vm_lab import is_child, words_of

pytestmark = [pytest.mark.anyio, pytest.mark.needs_root, pytest.mark.usefixtures("inside_private_network")]

GATEWAY, NEIGHBOUR_GATEWAY = "192.168.64.1", "192.168.128.1"


@pytest.fixture(params=[Userns(), Bridge(on_demand=True)], ids=["userns", "bridge"], autouse=True)
def backend(request: pytest.FixtureRequest) -> NetworkBackend:
    made: NetworkBackend = request.param
    if lack := made.lacking():
        pytest.skip(lack.reason)
    return made


def asking(
    number: int, mode: NetworkMode, allow: str | None = None, block: str | None = None, expose: str | None = None
) -> AttachRequest:
    mac = f"7a:65:e4:3f:be:{number:02x}"
    return AttachRequest(vm=f"tiny{number}", mac=mac, mode=mode, allow=allow, block=block, expose=expose)


@asynccontextmanager
async def guest(backend: NetworkBackend, request: AttachRequest) -> AsyncGenerator[tuple[Attachment, TapGuest]]:
    """A guest that has its address."""
    async with backend.attach(request) as attachment:
        tap = TapGuest(descriptor=attachment.cables[0].descriptors[0], mac=bytes.fromhex(request.mac.replace(":", "")))
        answer = tap.leased()
        assert answer is not None
        assert (answer.kind, str(answer.address)) == (ACK, attachment.record.guest_address)
        yield attachment, tap


@pytest.mark.parametrize(
    ("mode", "allow", "block", "outside"),
    [
        (NetworkMode.NAT, None, None, True),
        (NetworkMode.SOFTNET, None, None, False),  # the uplink has a private address
        (NetworkMode.SOFTNET, "192.0.2.0/24", None, True),
        (NetworkMode.SOFTNET, "192.0.2.0/24", f"{UPLINK_ADDRESS}/32", False),
        (NetworkMode.SOFTNET, "0.0.0.0/0", "192.0.2.0/24", False),
        (NetworkMode.HOST, None, None, False),
    ],
)
async def test_what_a_guest_reaches(
    backend: NetworkBackend, mode: NetworkMode, allow: str | None, block: str | None, outside: bool
) -> None:
    router = NEIGHBOUR_GATEWAY if mode is NetworkMode.HOST else GATEWAY
    with echo():
        async with guest(backend, asking(1, mode, allow, block)) as (attachment, tap):
            own = str(attachment.record.guest_address)
            assert tap.hardware_of(own, router) is not None
            assert tap.reaches(own, router, UPLINK_ADDRESS, PORT, within=5 if outside else 0.5) is outside


@pytest.mark.parametrize("mode", [NetworkMode.NAT, NetworkMode.SOFTNET])
async def test_a_guest_that_pretends_to_be_another_is_not_heard(backend: NetworkBackend, mode: NetworkMode) -> None:
    with echo():
        async with guest(backend, asking(1, mode, "192.0.2.0/24")) as (attachment, tap):
            own = str(attachment.record.guest_address)
            assert not tap.reaches(own, GATEWAY, UPLINK_ADDRESS, PORT, within=0.5, source="192.168.64.200")
            assert tap.hardware_of("192.168.64.200", GATEWAY, within=1) is None
            assert tap.reaches(own, GATEWAY, UPLINK_ADDRESS, PORT)


@pytest.mark.parametrize(
    ("first", "second", "meet"),
    [
        (asking(1, NetworkMode.NAT), asking(2, NetworkMode.NAT), False),
        (asking(1, NetworkMode.SOFTNET), asking(2, NetworkMode.NAT), False),
        (asking(1, NetworkMode.SOFTNET, "0.0.0.0/0"), asking(2, NetworkMode.SOFTNET, "0.0.0.0/0"), True),
        (asking(1, NetworkMode.HOST), asking(2, NetworkMode.HOST), False),
    ],
    ids=["nat", "softnet-nat", "softnet-open", "host"],
)
async def test_guests_meet_only_where_both_are_open(
    backend: NetworkBackend, first: AttachRequest, second: AttachRequest, meet: bool
) -> None:
    async with guest(backend, first) as (one, sender), guest(backend, second) as (other, hearer):
        own, target = str(one.record.guest_address), str(other.record.guest_address)
        sender.send(arp_frame(sender.mac, 1, own, target))
        assert any(frame[6:12] == sender.mac for frame in hearer.frames(0.5)) is meet
        sender.send(udp_frame(sender.mac, hearer.mac, own, target, 5555, PORT, b"directly"))
        assert any(b"directly" in frame for frame in hearer.frames(0.5)) is meet
        router = NEIGHBOUR_GATEWAY if first.mode is NetworkMode.HOST else GATEWAY
        assert sender.hardware_of(own, router) is not None
        sender.reaches(own, router, target, PORT, within=0.1)  # by the router's hardware address
        assert not any(frame[23:24] == b"\x11" for frame in hearer.frames(0.3))


async def test_an_exposed_port_is_there_for_everybody_who_reaches_the_host(backend: NetworkBackend) -> None:
    request = asking(1, NetworkMode.SOFTNET, expose="8022:22")
    async with guest(backend, request) as (attachment, tap):
        own = bytes(int(part) for part in str(attachment.record.guest_address).split("."))
        for address in (UPLINK_ADDRESS, "127.0.0.1"):
            with socket.socket() as client:
                client.setblocking(False)
                client.connect_ex((address, 8022))
                found = await anyio.to_thread.run_sync(lambda: [one for one in tap.frames(1.5) if one[38:42] == own])
                assert found  # the network looks for the guest to carry the connection on
        with pytest.raises((PortTaken, BackendUnusable), match="8022"):
            async with backend.attach(asking(2, NetworkMode.SOFTNET, expose="8022:80")):
                pass


async def test_what_a_guest_is_refused_is_written_down(backend: NetworkBackend, tmp_path: Path) -> None:
    request = replace(asking(1, NetworkMode.SOFTNET, block="8.0.0.0/8"), refusals=tmp_path / "refusals.log")
    async with guest(backend, request) as (attachment, tap):
        own = str(attachment.record.guest_address)
        assert not tap.reaches(own, GATEWAY, "8.8.8.8", 443, within=0.1)
        assert not tap.reaches(own, GATEWAY, UPLINK_ADDRESS, PORT, within=0.1)
    found = [one async for one in logged(tmp_path / "refusals.log", lambda: False)]
    assert {(one.destination, one.protocol, one.port, one.packets, one.rule) for one in found} == {
        ("8.8.8.8", "udp", 443, 1, "block 8.0.0.0/8"),
        (UPLINK_ADDRESS, "udp", PORT, 1, "default: 192.0.2.0/24 is private"),
    }


async def test_a_host_only_guest_gets_no_answers_from_the_dns_of_another_network(backend: NetworkBackend) -> None:
    asked = dns.message.make_query("tiny1.tart.internal", "A").to_wire()
    async with (
        guest(backend, asking(2, NetworkMode.NAT)),
        guest(backend, asking(1, NetworkMode.HOST)) as (attachment, tap),
    ):
        own = str(attachment.record.guest_address)
        router = tap.hardware_of(own, NEIGHBOUR_GATEWAY)
        assert router is not None
        tap.send(udp_frame(tap.mac, router, own, GATEWAY, 5555, 53, asked))
        assert not [frame for frame in tap.frames(0.5) if frame[36:38] == (5555).to_bytes(2, "big")]


async def test_questions_for_names_are_answered_while_only_names_are_allowed(backend: NetworkBackend) -> None:
    asked = dns.message.make_query("tiny1.tart.internal", "A")
    async with guest(backend, asking(1, NetworkMode.SOFTNET, "github.com", "0.0.0.0/0")) as (attachment, tap):
        own = str(attachment.record.guest_address)
        router = tap.hardware_of(own, GATEWAY)
        assert router is not None
        tap.send(udp_frame(tap.mac, router, own, GATEWAY, 5555, 53, asked.to_wire()))
        heard = (frame[42:] for frame in tap.frames(3) if frame[36:38] == (5555).to_bytes(2, "big"))
        answer = dns.message.from_wire(await anyio.to_thread.run_sync(lambda: next(heard)))
        assert asked.is_response(answer)
        assert [line.split()[-1] for records in answer.answer for line in records.to_text().splitlines()] == [own]


async def test_a_rule_that_is_none_is_wrong_usage(backend: NetworkBackend) -> None:
    with pytest.raises(InvalidArgument):
        async with backend.attach(asking(1, NetworkMode.SOFTNET, allow="10.0.0.5")):
            pass


async def test_without_its_rules_a_guest_is_mute_and_its_run_ends(backend: NetworkBackend) -> None:
    with echo():
        async with guest(backend, asking(1, NetworkMode.SOFTNET, "192.0.2.0/24")) as (attachment, tap):
            own = str(attachment.record.guest_address)
            assert tap.reaches(own, GATEWAY, UPLINK_ADDRESS, PORT)
            parent = processes().get("process", os.getpid())
            (rules,) = (pid for pid in process_ids() if is_child(pid, parent) and b"/nft\0" in words_of(pid))
            os.kill(rules, signal.SIGKILL)
            with anyio.fail_after(5):
                assert "nft" in str(await attachment.lost())
            with suppress(OSError):  # the host's network takes the tap away too
                assert tap.hardware_of(own, GATEWAY, within=1) is None
                assert not tap.reaches(own, GATEWAY, UPLINK_ADDRESS, PORT, within=0.5)


async def test_an_unusable_network_is_no_reason_to_filter_less(backend: NetworkBackend) -> None:
    async with backend.attach(asking(1, NetworkMode.NAT)):
        with pytest.raises(MacTaken):
            async with backend.attach(asking(1, NetworkMode.SOFTNET)):
                pass


async def test_the_policy_is_replaced_over_the_control_channel_while_the_guest_runs(backend: NetworkBackend) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    request = replace(asking(1, NetworkMode.SOFTNET), control_descriptor=theirs.detach())

    def told(allow: list[str]) -> dict[str, Any]:
        params = {"allow": allow, "block": list[str]()}
        question = {"jsonrpc": "2.0", "id": 1, "method": "softnet.policy.set", "params": params}
        ours.sendall(json.dumps(question).encode() + b"\n")
        answer: dict[str, Any] = json.loads(ours.recv(65536))
        return answer

    with echo(), ours:
        async with (
            guest(backend, request) as (attachment, tap),
            guest(backend, asking(2, NetworkMode.SOFTNET, "0.0.0.0/0")) as (_, other),
        ):
            own = str(attachment.record.guest_address)
            assert not tap.reaches(own, GATEWAY, UPLINK_ADDRESS, PORT, within=0.5)
            answer = await anyio.to_thread.run_sync(told, ["192.0.2.0/24"])
            assert answer["result"]["allow"] == ["192.0.2.0/24"]
            assert tap.reaches(own, GATEWAY, UPLINK_ADDRESS, PORT)
            assert "result" in await anyio.to_thread.run_sync(told, ["0.0.0.0/0"])
            tap.send(arp_frame(tap.mac, 1, own, "192.168.64.250"))
            assert any(frame[6:12] == tap.mac for frame in other.frames(5))  # not isolated any more
