"""The shared network in the host's own: who is in it, what it serves, how it is reached, and that it ends."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from host_networks import gone, processes, things_left
from namespaces import Namespace
from tap_guest import ACK, TapGuest
from tartlet.network.attachment import Attachment, AttachRequest, BackendUnusable, Forward, NetworkMode
from tartlet.network.bridge.bridge import Bridge
from tartlet.network.record import NetworkRecord
from tartlet.network.shared import conntrack
from tartlet.network.shared.addresses import MacTaken
from tartlet.network.status import NetworkInUse, change_setting, shared_networks
from vm_lab import until

pytestmark = [pytest.mark.anyio, pytest.mark.needs_root, pytest.mark.usefixtures("inside_private_network")]

BRIDGE = Bridge(on_demand=True)


@pytest.fixture(autouse=True)
def usable() -> None:
    if lack := BRIDGE.lacking():
        pytest.skip(lack.reason)


def mac(number: int) -> str:
    return f"7a:65:e4:3f:be:{number:02x}"


def asking(number: int, keep: NetworkRecord | None = None, mode: NetworkMode = NetworkMode.NAT) -> AttachRequest:
    return AttachRequest(vm=f"tiny{number}", mac=mac(number), keep=keep, mode=mode)


@asynccontextmanager
async def guest(number: int, mode: NetworkMode = NetworkMode.NAT) -> AsyncGenerator[tuple[Attachment, TapGuest]]:
    async with BRIDGE.attach(asking(number, mode=mode)) as attachment:
        tap = attachment.cables[0].descriptors[0]
        yield attachment, TapGuest(descriptor=tap, mac=bytes.fromhex(mac(number).replace(":", "")))


async def test_vms_share_one_network_which_ends_with_the_last_and_leaves_nothing() -> None:
    assert things_left() == []
    async with BRIDGE.attach(asking(1)) as first:
        standing = processes()
        assert sorted(standing) == ["caretaker", "dnsmasq", "nft", "process"]
        async with BRIDGE.attach(asking(2)) as second:
            assert processes()["process"] == standing["process"]
            assert first.record.address != second.record.address
            assert "tart0" in things_left()
        assert processes()["dnsmasq"] == standing["dnsmasq"]
    await anyio.to_thread.run_sync(gone)


@pytest.mark.parametrize(
    "identifier",
    [b"", b"\x3d\x07\x01" + bytes(6), b"\x3d\x0b\xff\x12\x34\x56\x78\x00\x01\x00\x01\x2c\x2d"],
    ids=["none", "a-foreign-mac", "duid"],
)
async def test_the_record_tells_the_address_that_the_guest_gets_whatever_it_calls_itself(identifier: bytes) -> None:
    async with guest(1) as (attachment, tap):
        answer = tap.leased(*([identifier] if identifier else []))
        assert answer is not None
        assert (answer.kind, str(answer.address)) == (ACK, attachment.record.address)
        assert attachment.record.address == attachment.record.guest_address
        assert attachment.record.ssh_port == 22
        gateway = IPv4Address("192.168.64.1").packed
        assert (answer.options[3], answer.options[6]) == (gateway, gateway)


async def test_a_host_only_guest_is_told_no_router() -> None:
    async with guest(1, NetworkMode.HOST) as (attachment, tap):
        answer = tap.leased()
        assert answer is not None
        assert str(answer.address) == attachment.record.address
        assert str(attachment.record.address).startswith("192.168.128.")
        assert 3 not in answer.options


async def test_the_next_vm_at_an_address_gets_it_and_none_of_its_connections() -> None:
    async with guest(1) as (first, tap):
        assert tap.leased() is not None
        address = str(first.record.address)
        assert tap.hardware_of(address, "192.168.64.1") is not None
        tap.reaches(address, "192.168.64.1", "192.0.2.99", 53, within=0.2)  # leaves by the uplink, to nobody
    async with BRIDGE.attach(asking(2, NetworkRecord(backend="bridge", address=None, guest_address=address))) as second:
        assert second.record.address == address
        assert conntrack.forget(IPv4Address(address)) == 0
        other = TapGuest(descriptor=second.cables[0].descriptors[0], mac=bytes.fromhex(mac(2).replace(":", "")))
        answer = other.leased()
        assert answer is not None
        assert str(answer.address) == address


async def test_a_subnet_that_the_host_reaches_already_is_left_alone(inside_private_network: Namespace) -> None:
    assert inside_private_network.run("ip", "route", "add", "192.168.64.0/23", "via", "192.0.2.1").returncode == 0
    async with BRIDGE.attach(asking(1)) as attachment:
        assert str(attachment.record.address).startswith("192.168.66.")


async def test_a_foreign_interface_of_our_name_is_left_alone(inside_private_network: Namespace) -> None:
    assert inside_private_network.run("ip", "link", "add", "tart0", "type", "bridge").returncode == 0
    with pytest.raises(BackendUnusable, match="tart0 that is not of tart's making"):
        async with BRIDGE.attach(asking(1)):
            pass
    assert things_left() == ["tart0"]


async def test_where_another_dhcp_server_has_the_port_the_network_is_unusable() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 67))
        with pytest.raises(BackendUnusable, match=r"dnsmasq \(tart0\) does not work here: .*Address already in use"):
            async with BRIDGE.attach(asking(1)):
                pass
        await anyio.to_thread.run_sync(gone)
    async with guest(1) as (_, tap):
        assert tap.leased() is not None


async def test_forwarding_is_switched_on(inside_private_network: Namespace) -> None:
    asked = ("sysctl", "-n", "net.ipv4.ip_forward")
    assert inside_private_network.run(*asked).stdout == "0\n"
    async with BRIDGE.attach(asking(1)):
        assert inside_private_network.run(*asked).stdout == "1\n"


async def test_rules_that_another_program_clears_are_put_back(inside_private_network: Namespace) -> None:
    def rules() -> list[str]:
        told = [
            inside_private_network.run("nft", "--stateless", "list", "table", *name.split()).stdout for name in names
        ]
        return [text for text in told if text]

    names = [f"{family} tart_tart{number}" for number in (0, 1) for family in ("inet", "bridge")]
    async with BRIDGE.attach(asking(1)), BRIDGE.attach(asking(2, mode=NetworkMode.HOST)):
        before, standing = rules(), processes()
        assert len(before) == 4
        assert inside_private_network.run("nft", "flush", "ruleset").returncode == 0
        await anyio.to_thread.run_sync(until, lambda: rules() == before, "the rules")
        assert processes() == standing
    await anyio.to_thread.run_sync(gone)


async def test_twenty_machines_at_once(tmp_path: Path) -> None:
    """QEMU takes each tap."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        pytest.skip("needs qemu-system-x86_64")
    machines = list[subprocess.Popen[bytes]]()
    addresses = set[str | None]()
    async with AsyncExitStack() as held:
        for number in range(20):
            attachment = await held.enter_async_context(BRIDGE.attach(asking(number)))
            addresses.add(attachment.record.address)
            (cable,) = attachment.cables
            words = [program, "-nodefaults", "-display", "none", "-m", "16", "-S", "-netdev", f"{cable.netdev},id=n"]
            words += ["-device", f"virtio-net-pci,netdev=n,mac={mac(number)},romfile="]
            with (tmp_path / f"{number}.log").open("wb") as log:
                machine = subprocess.Popen(words, pass_fds=cable.descriptors, stderr=log)  # noqa: ASYNC220
            held.callback(machine.wait)
            held.callback(machine.kill)
            machines.append(machine)
        assert len(addresses) == 20
        await anyio.sleep(1)
        assert [machine.poll() for machine in machines] == [None] * 20
        assert [(tmp_path / f"{number}.log").read_text() for number in range(20)] == [""] * 20
    await anyio.to_thread.run_sync(gone)


async def test_the_status_tells_the_networks_and_their_vms() -> None:
    assert await shared_networks() == ()
    async with BRIDGE.attach(asking(1)) as one, BRIDGE.attach(asking(2, mode=NetworkMode.HOST)) as two:
        routed, host_only = await shared_networks()
        assert (routed.backend, routed.host_only, host_only.host_only) == ("bridge", False, True)
        assert [(vm.name, str(vm.address)) for vm in routed.vms] == [("tiny1", one.record.address)]
        assert [(vm.name, str(vm.address)) for vm in host_only.vms] == [("tiny2", two.record.address)]
        with pytest.raises(NetworkInUse, match="tiny1, tiny2"):
            await change_setting("nat.address", "172.20.0.1", system=True)


async def test_an_exposed_port_that_somebody_has_is_refused() -> None:
    request = AttachRequest(vm="tiny", mac=mac(1), mode=NetworkMode.SOFTNET, expose="8022:22")
    with (
        socket.create_server(("127.0.0.1", 8022)),
        pytest.raises(BackendUnusable, match=r"port 8022 .*Address already in use"),
    ):
        async with BRIDGE.attach(request):
            pass
    async with BRIDGE.attach(request):
        with pytest.raises(BackendUnusable, match="another VM exposes it"):
            async with BRIDGE.attach(AttachRequest(vm="two", mac=mac(2), mode=NetworkMode.SOFTNET, expose="8022:80")):
                pass
    async with BRIDGE.attach(request):
        pass


async def test_two_vms_with_one_mac_address_are_refused() -> None:
    async with BRIDGE.attach(asking(1)):
        with pytest.raises(MacTaken, match="another VM of this network runs with the MAC address") as caught:
            async with BRIDGE.attach(asking(1)):
                pass
        assert "--random-mac" in str(caught.value.hint)


async def test_ports_are_those_of_the_guest_itself() -> None:
    async with BRIDGE.attach(AttachRequest(vm="tiny", mac=mac(1), forwards=(Forward(port=5900, guest_port=5900),))):
        pass
    with pytest.raises(BackendUnusable, match="port 80 of the guest's own address"):
        async with BRIDGE.attach(AttachRequest(vm="tiny", mac=mac(1), forwards=(Forward(port=80, guest_port=8080),))):
            pass


def test_without_being_asked_nothing_is_changed() -> None:
    lack = Bridge().lacking()
    assert lack is not None
    assert lack.hint == "sudo tart network setup"
