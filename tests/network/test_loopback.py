"""The address on the host's loopback that leads to a guest."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from itertools import islice

import pytest

from namespaces import entered, namespace
from tartlet.network.attachment import Forward
from tartlet.network.shared.loopback import PortTaken, addresses_of, doorway

pytestmark = [pytest.mark.needs_root]

MAC = "7a:65:e4:3f:be:01"


def test_addresses_are_a_matter_of_the_mac_alone() -> None:
    first = list(islice(addresses_of(MAC), 3))
    assert first == list(islice(addresses_of(MAC.upper()), 3))
    assert len(set(first)) == 3
    assert all(address.startswith("127.64.") for address in first)
    assert next(addresses_of("7a:65:e4:3f:be:02")) != first[0]


@pytest.mark.usefixtures("inside_private_network")
def test_two_vms_never_share_an_address() -> None:
    first, second, third = islice(addresses_of(MAC), 3)
    with doorway(MAC) as one, doorway(MAC) as two:
        assert (one.address, two.address) == (first, second)
        with doorway(MAC, preferred=first) as other:
            assert other.address == third
    with doorway(MAC, preferred="127.64.0.9") as kept:
        assert kept.address == "127.64.0.9"


@pytest.mark.usefixtures("inside_private_network")
def test_an_address_is_free_again_when_its_holder_is_killed() -> None:
    script = (
        "from tartlet.network.shared.loopback import doorway\n"
        f"with doorway({MAC!r}) as d: print(d.address, flush=1); input()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout
        held = holder.stdout.readline().strip()
        with doorway(MAC) as other:
            assert other.address != held
        holder.kill()
    with doorway(MAC) as again:
        assert again.address == held


@pytest.mark.usefixtures("inside_private_network")
def test_port_22_when_it_can_be_had() -> None:
    with doorway(MAC) as door:
        assert (door.ssh_port, door.note) == (22, None)
        assert door.forwards([Forward(port=8080, guest_port=80)])[0] == Forward(port=22, guest_port=22)


@pytest.mark.usefixtures("inside_private_network")
def test_a_server_on_all_addresses_moves_ssh_to_2222_and_is_named() -> None:
    with socket.create_server(("0.0.0.0", 22)), doorway(MAC) as door:
        assert door.ssh_port == 2222
        assert door.note is not None
        assert "has port 22 on all addresses" in door.note
        assert f"ssh -p 2222 admin@{door.address}" in door.note


@pytest.mark.usefixtures("inside_private_network")
def test_both_ports_taken_gives_any() -> None:
    with socket.create_server(("0.0.0.0", 22)), socket.create_server(("0.0.0.0", 2222)), doorway(MAC) as door:
        assert door.ssh_port not in (22, 2222)


def test_without_rights_ssh_is_on_2222() -> None:
    script = (
        "import os; os.setuid(65534)\nfrom tartlet.network.shared.loopback import doorway\n"
        f"with doorway({MAC!r}) as d: print(d.ssh_port, d.note)"
    )
    with namespace(low_ports=False) as bare, entered(bare):
        told = subprocess.run(
            [sys.executable, "-c", f"import tartlet.network.shared.loopback\n{script}"],
            capture_output=True, text=True, check=False, cwd="/", env={**os.environ, "PYTHONSAFEPATH": "1"},
        )  # fmt: skip
    assert told.stdout.startswith("2222 "), told.stderr
    assert "ports below 1024 need rights" in told.stdout


@pytest.mark.usefixtures("inside_private_network")
def test_a_forward_that_cannot_be_had_is_an_error() -> None:
    web = Forward(port=8080, guest_port=80)
    with socket.create_server(("0.0.0.0", 8080)), pytest.raises(PortTaken, match="8080"), doorway(MAC, more=[web]):
        pass
