"""The settings of the shared network at work, and what is told of it while it stands."""

from __future__ import annotations

import json
import socket
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import anyio.to_thread
import dns.message
import pytest

from command import TART, Called
from namespaces import UPLINK_ADDRESS, Namespace
from tap_guest import TapGuest, udp_frame
from tartlet.network import backend, preferences
from tartlet.network.attachment import AttachRequest, BackendUnusable, NetworkMode
from tartlet.network.namespace.userns import Userns
from tartlet.network.status import NetworkInUse, change_setting, reset_setting, shared_networks

pytestmark = [pytest.mark.anyio, pytest.mark.needs_root, pytest.mark.usefixtures("inside_private_network")]

ONE = AttachRequest(vm="one", mac="7a:65:e4:3f:be:01")
SOFT = AttachRequest(vm="soft", mac="7a:65:e4:3f:be:02", mode=NetworkMode.SOFTNET)
ALONE = AttachRequest(vm="alone", mac="7a:65:e4:3f:be:03", mode=NetworkMode.HOST)


@pytest.fixture(autouse=True)
def usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if lack := Userns().lacking():
        pytest.skip(lack.reason)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("TART_HOME", str(tmp_path / "home"))


def guest_of(request: AttachRequest, descriptor: int) -> TapGuest:
    return TapGuest(descriptor=descriptor, mac=bytes.fromhex(request.mac.replace(":", "")))


def lease(request: AttachRequest, descriptor: int) -> tuple[IPv4Address, IPv4Address, int]:
    """Address, router and seconds that the guest is given."""
    answer = guest_of(request, descriptor).leased()
    assert answer is not None
    router = IPv4Address(answer.options.get(3, bytes(4)))
    return answer.address, router, int.from_bytes(answer.options[51], "big")


async def test_guests_get_the_network_and_the_lease_time_that_were_chosen() -> None:
    for key, value in (("nat.address", "172.20.0.1"), ("nat.mask", "255.255.0.0"), ("dhcp.lease_time", "700")):
        await change_setting(key, value)
    async with Userns().attach(ONE) as first, Userns().attach(SOFT) as second:
        address, router, seconds = lease(ONE, first.cables[0].descriptors[0])
        assert address in IPv4Network("172.20.0.0/16")
        assert (router, seconds) == (IPv4Address("172.20.0.1"), 700)
        assert lease(SOFT, second.cables[0].descriptors[0])[2] == 600


async def test_names_are_asked_for_at_the_servers_that_were_chosen() -> None:
    await change_setting("dns.mode", UPLINK_ADDRESS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((UPLINK_ADDRESS, 53))
        server.settimeout(5)
        async with Userns().attach(ONE) as attachment:
            tap = guest_of(ONE, attachment.cables[0].descriptors[0])
            answer = tap.leased()
            assert answer is not None
            assert answer.options[6] == answer.options[3]  # the guest asks its gateway
            own, gateway = str(attachment.record.guest_address), str(IPv4Address(answer.options[3]))
            router = tap.hardware_of(own, gateway)
            assert router is not None
            question = dns.message.make_query("example.org", "A").to_wire()
            tap.send(udp_frame(tap.mac, router, own, gateway, 5555, 53, question))
            heard, _ = await anyio.to_thread.run_sync(server.recvfrom, 512)
            assert dns.message.from_wire(heard).question[0].name.to_text() == "example.org."


async def test_guests_that_are_to_ask_nobody_are_told_nobody() -> None:
    await change_setting("dns.mode", "off")
    async with Userns().attach(ONE) as attachment:
        answer = guest_of(ONE, attachment.cables[0].descriptors[0]).leased()
        assert answer is not None
        assert 3 in answer.options
        assert 6 not in answer.options


async def test_what_stands_is_told_and_settings_wait_until_it_does_not() -> None:
    assert await shared_networks() == ()
    async with Userns().attach(ONE) as first, Userns().attach(ALONE):
        routed, host_only = await shared_networks()
        assert (str(routed.network), str(routed.gateway), routed.capacity) == ("192.168.64.0/24", "192.168.64.1", 253)
        assert [(vm.name, vm.mac, str(vm.address)) for vm in routed.vms] == [
            ("one", ONE.mac, first.record.guest_address)
        ]
        assert host_only.host_only
        assert [vm.name for vm in host_only.vms] == ["alone"]
        with pytest.raises(NetworkInUse, match="in use by alone, one"):
            await change_setting("nat.address", "172.20.0.1")
        with pytest.raises(NetworkInUse, match="in use by alone, one"):
            await reset_setting("nat.address")
    await change_setting("nat.address", "172.20.0.1")
    assert preferences.read().nat == IPv4Network("172.20.0.0/24")
    await reset_setting("nat.address")
    assert preferences.read().nat is None


async def test_a_chosen_network_that_the_host_reaches_already_is_an_error(inside_private_network: Namespace) -> None:
    assert inside_private_network.run("ip", "route", "add", "172.20.0.0/16", "via", "192.0.2.1").returncode == 0
    await change_setting("nat.address", "172.20.3.1")
    with pytest.raises(BackendUnusable, match=r"172\.20\.3\.0/24 of the settings overlaps 172\.20\.0\.0/16"):
        async with Userns().attach(ONE):
            pass


async def test_a_network_that_nobody_chose_gives_way(inside_private_network: Namespace) -> None:
    assert inside_private_network.run("ip", "route", "add", "192.168.64.0/23", "via", "192.0.2.1").returncode == 0
    async with Userns().attach(ONE) as attachment:
        assert str(attachment.record.guest_address).startswith("192.168.66.")


def test_the_backend_can_be_chosen() -> None:
    assert [one.name for one in backend.preferred("auto")] == ["bridge", "userns", "passt", "slirp", "bridged"]
    assert [one.name for one in backend.preferred("slirp")] == ["slirp", "bridged"]


async def test_the_command_shows_and_changes_settings(inside_private_network: Namespace) -> None:
    def called(*words: str) -> Called:
        done = inside_private_network.run(TART, "network", *words)
        return Called(done.returncode, done.stdout, done.stderr)

    assert called("set", "nat.address", "192.168.77.0/24") == Called(0, "", "")
    assert called("set", "nat.adress", "192.168.77.1").code == 64
    shown = called("status")
    assert "192.168.77.1" in shown.out
    assert "No VM runs in it." in shown.out
    async with Userns().attach(ONE) as attachment:
        told = json.loads(called("status", "--format", "json").out)
        (network,) = told["Networks"]
        assert network["Network"] == "192.168.77.0/24"
        one = {"Name": "one", "Address": attachment.record.guest_address, "MAC": ONE.mac}
        assert network["VMs"] == [one | {"Filter": None}]  # its supervisor is none of that home
        assert str(attachment.record.guest_address) in called("status").out
        refused = called("set", "backend", "slirp")
        assert refused.code == 1
        assert "in use by one" in refused.err
