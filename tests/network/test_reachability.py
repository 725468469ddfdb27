"""Real guests on the backends: who reaches whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from booted import in_guest
from namespaces import UPLINK_ADDRESS
from plugged_guests import BEND_LOOPBACK, over_ssh, plugged, saying
from tartlet.network.attachment import NetworkMode
from tartlet.network.backend import NetworkBackend
from tartlet.network.bridge.bridge import Bridge
from tartlet.network.namespace.userns import Userns
from tartlet.network.user_mode.passt import Passt
from tartlet.network.user_mode.slirp import Slirp

pytestmark = [pytest.mark.anyio, pytest.mark.needs_root, pytest.mark.usefixtures("inside_private_network")]

SECRET, PUBLIC = "loopback-only", "for-everybody"
BRIDGE = Bridge(on_demand=True)
GATEWAYS = {"bridge": "192.168.64.1", "userns": "192.168.64.1", "passt": "10.0.2.2", "slirp": "10.0.2.2"}


@pytest.mark.parametrize("backend", [BRIDGE, Userns(), Passt(), Slirp()], ids=lambda backend: backend.name)
async def test_the_host_reaches_the_guest_and_the_guest_the_outside(backend: NetworkBackend, tmp_path: Path) -> None:
    if lack := backend.lacking():
        pytest.skip(lack.reason)
    with saying(SECRET, "127.0.0.1", 9999), saying(PUBLIC, UPLINK_ADDRESS, 9998):
        async with plugged(tmp_path, backend, NetworkMode.NAT) as machine:
            assert machine.attachment.record.ssh_port == 22
            assert (await over_ssh(machine.attachment, "echo hello from $USER")).strip() == "hello from admin"
            assert await machine.heard(UPLINK_ADDRESS, 9998) == PUBLIC
            through_gateway = await machine.heard(GATEWAYS[backend.name], 9999)
    if backend.name != "slirp":
        assert through_gateway == ""
    else:  # QEMU has no option against it: told instead
        assert through_gateway == SECRET
        assert any("127.0.0.1" in note for note in machine.attachment.notes)


@pytest.mark.parametrize("backend", [BRIDGE, Userns()], ids=lambda backend: backend.name)
async def test_a_guest_of_the_shared_network_cannot_reach_the_hosts_loopback_by_bending_its_routes(
    backend: NetworkBackend, tmp_path: Path
) -> None:
    with saying(SECRET, "127.0.0.1", 9999):
        async with plugged(tmp_path, backend, NetworkMode.NAT) as machine:
            await in_guest(machine.guest.agent, BEND_LOOPBACK.replace("10.0.2.2", GATEWAYS["userns"]))
            assert await machine.heard("127.0.0.1", 9999) == ""


async def test_a_host_only_guest_reaches_nothing_and_is_reached(tmp_path: Path) -> None:
    with saying(SECRET, "127.0.0.1", 9999), saying(PUBLIC, UPLINK_ADDRESS, 9998):
        async with plugged(tmp_path, Slirp(), NetworkMode.HOST) as machine:
            assert (await over_ssh(machine.attachment, "echo reached")).strip() == "reached"
            assert await machine.heard("10.0.2.2", 9999) == ""
            assert await machine.heard(UPLINK_ADDRESS, 9998) == ""
            await in_guest(machine.guest.agent, BEND_LOOPBACK)
            assert await machine.heard("127.0.0.1", 9999) == ""
