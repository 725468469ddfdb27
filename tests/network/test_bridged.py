"""Bridged cards: on a bridge and on a network card of the host, with the DHCP server of a local network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import anyio
import pytest

from lan_lab import BRIDGE, BRIDGE_MAC, CARD, HOST, MTU, ROUTER, Lan, local_network
from namespaces import entered
from tap_guest import ACK, TapGuest, arp_frame
from tartlet.network.attachment import Attachment, AttachRequest, NetworkMode, card_mac
from tartlet.network.bridged.bridged import Bridged
from tartlet.network.cards import ear
from tartlet.network.cards.interfaces import InterfaceMissing, bridged_interfaces
from tartlet.network.shared.addresses import MacTaken
from vm_lab import until

pytestmark = [pytest.mark.anyio, pytest.mark.needs_root]

MACS = ("7a:65:e4:3f:be:01", "7a:65:e4:3f:be:07")
SUPERVISOR = """
import anyio, subprocess, sys
from tartlet.network.shared.addresses import MacTaken
from tartlet.network.attachment import AttachRequest, NetworkMode
from tartlet.network.bridged.bridged import Bridged
async def main():
    request = AttachRequest(vm="tiny", mac=sys.argv[1], mode=NetworkMode.BRIDGED, interfaces=tuple(sys.argv[2:]))
    async with Bridged().attach(request) as attachment:
        descriptors = [number for cable in attachment.cables for number in cable.descriptors]
        print(subprocess.Popen(["sleep", "60"], pass_fds=descriptors).pid, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""
"""Holds a VM's cards, and starts a program that holds them too, as QEMU does."""


@pytest.fixture
def lan(tmp_path: Path) -> Generator[Lan]:
    """The test itself runs on the host of the lab."""
    with local_network(tmp_path) as made, entered(made.host):
        yield made


def asking(*interfaces: str, mac: str = MACS[0]) -> AttachRequest:
    return AttachRequest(vm="tiny", mac=mac, mode=NetworkMode.BRIDGED, interfaces=interfaces)


def guest_on(attachment: Attachment, mac: str, index: int = 0) -> TapGuest:
    number = attachment.cables[index].descriptors[0]
    return TapGuest(descriptor=number, mac=bytes.fromhex(card_mac(mac, index).replace(":", "")))


@asynccontextmanager
async def bridged(interface: str, mac: str = MACS[0]) -> AsyncGenerator[tuple[Attachment, TapGuest]]:
    async with Bridged().attach(asking(interface, mac=mac)) as attachment:
        yield attachment, guest_on(attachment, mac)


def leased(guest: TapGuest) -> str:
    answer = guest.leased()
    assert answer is not None
    assert answer.kind == ACK
    return str(answer.address)


@pytest.mark.parametrize("interface", [BRIDGE, CARD])
async def test_a_guest_is_a_machine_of_the_hosts_network(lan: Lan, interface: str) -> None:
    before = lan.links()
    async with bridged(interface) as (attachment, guest):
        address = leased(guest)
        assert attachment.record.address is None
        assert guest.hardware_of(address, ROUTER) is not None
        with anyio.fail_after(5):
            async for record in attachment.later():
                assert (record.address, record.interfaces) == (address, (interface,))
                break
        assert guest.hardware_of(address, HOST) is not None
    await anyio.to_thread.run_sync(until, lambda: lan.links() == before, "the card's end to be gone")


async def test_a_bridge_keeps_its_address_and_its_packet_size(lan: Lan) -> None:
    async with bridged(BRIDGE, "02:00:00:00:00:01"):
        told = lan.host.run("ip", "-o", "link", "show", BRIDGE).stdout
        assert BRIDGE_MAC in told
        assert f"mtu {MTU} " in told
        (tap,) = lan.taps()
        assert "fe:00:00:00:00:01" in lan.host.run("ip", "-o", "link", "show", tap).stdout


async def test_guests_on_the_bridge_and_on_the_card_talk_to_each_other(lan: Lan) -> None:
    async with bridged(BRIDGE, MACS[0]) as (_, one), bridged(CARD, MACS[1]) as (_, other):
        told = leased(one), leased(other)
        other.send(arp_frame(other.mac, 2, told[1], told[0]))
        found = [frame for frame in one.frames(1) if frame[6:12] == other.mac]
        assert found, lan.links()


@pytest.mark.parametrize("interfaces", [(BRIDGE, CARD), (BRIDGE, BRIDGE), (CARD, CARD)], ids=" ".join)
@pytest.mark.usefixtures("lan")
async def test_each_card_has_an_address_of_its_own(interfaces: tuple[str, str]) -> None:
    async with Bridged().attach(asking(*interfaces)) as attachment:
        assert len({leased(guest_on(attachment, MACS[0], index)) for index in range(2)}) == 2
        assert attachment.record.interfaces == interfaces


@contextmanager
def supervised(interface: str) -> Generator[tuple[int, int]]:
    """The numbers of a process that holds the cards of a VM, and of the one it started."""
    words = [sys.executable, "-c", SUPERVISOR, MACS[0], interface]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        qemu = int(supervisor.stdout.readline())
        try:
            yield supervisor.pid, qemu
        finally:
            supervisor.kill()


@pytest.mark.parametrize("first", ["supervisor", "qemu"])
@pytest.mark.parametrize("interface", [BRIDGE, CARD])
async def test_whoever_is_killed_nothing_stays_and_the_vm_can_start_at_once(
    lan: Lan, interface: str, first: str
) -> None:
    before = lan.links()
    with supervised(interface) as (supervisor, qemu):
        for pid in (supervisor, qemu) if first == "supervisor" else (qemu, supervisor):
            os.kill(pid, signal.SIGKILL)
    async with bridged(interface) as (_, guest):
        assert leased(guest)
    await anyio.to_thread.run_sync(until, lambda: lan.links() == before, "the card's end to be gone")


@pytest.mark.usefixtures("lan")
async def test_a_mac_address_that_is_on_the_card_already_is_told() -> None:
    async with bridged(CARD):
        with pytest.raises(MacTaken, match=f"on {CARD} runs with the MAC address {MACS[0]}"):
            async with bridged(CARD):
                pass


async def test_a_container_without_device_nodes_has_bridged_guests_too(lan: Lan) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
import anyio
from test_bridged import CARD, bridged, leased
async def main():
    async with bridged(CARD) as (_, guest):
        print(leased(guest))
anyio.run(main)
"""
    bare = "mount -t tmpfs tmpfs /dev && mkdir /dev/net && mknod /dev/net/tun c 10 200 && mknod /dev/null c 1 3"
    words = ["unshare", "--mount", "sh", "-c", f'{bare} && exec "$@" && ls /dev', "sh", sys.executable, "-c", script]
    done = await anyio.to_thread.run_sync(lan.host.run, *words)
    assert IPv4Address(done.stdout.strip()), done.stderr


async def test_a_host_without_taps_says_so(lan: Lan) -> None:
    script = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parent.parent)!r}]
import anyio
from tartlet.network.bridged.bridged import BridgingFailed
from test_bridged import BRIDGE, bridged
async def main():
    try:
        async with bridged(BRIDGE):
            pass
    except BridgingFailed as failed:
        print(failed)
anyio.run(main)
"""
    bare = "mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3"
    words = ["unshare", "--mount", "sh", "-c", f'{bare} && exec "$@"', "sh", sys.executable, "-c", script]
    done = await anyio.to_thread.run_sync(lan.host.run, *words)
    assert done.stdout.strip() == f"--net-bridged={BRIDGE}: No such file or directory (/dev/net/tun)", done.stderr


async def test_the_ear_hears_this_guest_only_and_no_probes(lan: Lan) -> None:
    async with bridged(BRIDGE) as (_, guest):
        (tap,) = lan.taps()
        with ear.opened(tap, MACS[0]) as listening:
            stranger = TapGuest(descriptor=guest.descriptor, mac=bytes.fromhex("7a65e43fbe99"))
            stranger.send(arp_frame(stranger.mac, 1, "192.0.2.66", ROUTER))
            guest.send(arp_frame(guest.mac, 1, "0.0.0.0", "192.0.2.77"))
            guest.send(arp_frame(guest.mac, 1, "169.254.3.4", "169.254.3.4"))
            guest.send(arp_frame(guest.mac, 1, "192.0.2.77", "192.0.2.77"))
            with anyio.fail_after(5):
                async for address in ear.heard(listening):
                    assert str(address) == "192.0.2.77"
                    break


@pytest.mark.usefixtures("lan")
async def test_what_can_be_named_is_listed_with_bridges_first() -> None:
    assert [one.name for one in await bridged_interfaces()] == [BRIDGE, CARD]
    with pytest.raises(InterfaceMissing, match='"wlan9"') as refused:
        async with bridged("wlan9"):
            pass
    assert refused.value.hint == f"there are {BRIDGE}, {CARD}"
    assert refused.value.exit_code == 64
