"""`run --net-bridged` as its users call it, with real guests on a local network."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from lan_lab import BRIDGE, CARD, MTU, Lan, local_network
from namespaces import Namespace, entered
from tartlet.network import record
from tartlet.vm.stored.address import NoAddress
from tartlet.vm.stored.folder import VmFolder
from vm_lab import Lab, kill, leaving_nobody, made, until

pytestmark = [pytest.mark.needs_root]

BOTH = ("--net-bridged", BRIDGE, "--net-bridged", CARD)


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Generator[Lan]:
    with local_network(tmp_path_factory.mktemp("lan")) as network:
        yield network


@pytest.fixture(scope="module")
def lab(lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A home on the host of the local network, with two VMs."""
    lab = made(tmp_path_factory.mktemp("home") / "home", lan.host)
    lab.done("clone", "mini", "other")
    return lab


def address(lab: Lab, name: str = "mini", *how: str) -> str:
    return lab.done("ip", *how, name).strip()


def test_two_vms_reach_each_other_and_keep_their_addresses_through_a_suspension(lan: Lan, lab: Lab) -> None:
    before = lan.links()
    with lab.started("run", "other", "--no-graphics", "--net-bridged", CARD):
        with lab.running("mini", *BOTH):
            mine, others = address(lab), address(lab, "other", "--wait=60")
            assert address(lab, "mini", "--resolver=arp") == address(lab, "mini", "--resolver=agent") == mine
            assert lab.sh("cd /sys/class/net; ls; cat eth?/mtu").split() == ["eth0", "eth1", "lo", str(MTU), str(MTU)]
            greeted_by_ssh(lan.host, mine)
            check_status(lab, mine, others)
            forked = lab.tart("fork", "mini", "copy")
            assert forked.code == 1
            assert "several --net-bridged cards" in forked.err
            lab.done("suspend", "mini")
            until(lambda: lab.state() == "suspended", "mini to be suspended")
        with lab.running("mini", *BOTH):
            assert address(lab) == mine
            greeted_by_ssh(lan.outside, mine)
            assert lab.sh(f"sleep 3 | timeout 5 nc {mine} 22 | head -c 4", "other") == "SSH-"
        lab.end("other")
    until(lambda: lan.links() == before, "the cards' ends to be gone")


def greeted_by_ssh(inside: Namespace, target: str) -> None:
    """The SSH server of a guest answers a machine of the network."""
    with entered(inside), socket.create_connection((target, 22), timeout=20) as connection:
        assert connection.recv(4) == b"SSH-"


def check_status(lab: Lab, mine: str, others: str) -> None:
    told = json.loads(lab.done("network", "status", "--format", "json"))["Bridged"]
    assert [(vm["Name"], vm["Address"], vm["Interfaces"]) for vm in told] == [
        ("mini", mine, [BRIDGE, CARD]),
        ("other", others, [CARD]),
    ]
    assert f"{BRIDGE},{CARD} bridged bridged mini" in " ".join(lab.done("network", "status").split())


@pytest.mark.parametrize("victim", ["supervisor", "qemu"])
def test_after_a_kill_nothing_stays(lan: Lan, lab: Lab, victim: str) -> None:
    before = lan.links()
    with leaving_nobody():
        started = lab.tart("run", "mini", "--no-graphics", "--detach", *BOTH)
        assert started.code == 0, started
        assert len(lan.taps()) == 1
        kill(lab.supervisor() if victim == "supervisor" else lab.qemu(), signal.SIGKILL)
        until(lambda: lan.links() == before and not lab.vm().supervisor(), "everything to be gone")


def test_where_the_address_is_not_known_the_agent_is_named(tmp_path: Path) -> None:
    record.write(tmp_path, record.NetworkRecord(backend="bridged", address=None, interfaces=(BRIDGE,)))
    unknown = NoAddress(VmFolder("mini", tmp_path), None, running=True, guest="linux")
    assert "--wait 60" in str(unknown.hint)
    assert "--resolver=agent" in str(unknown.hint)


def test_the_interfaces_are_listed_without_a_vm_and_wrong_ones_refused_before_anything_starts(lab: Lab) -> None:
    assert lab.done("run", "--net-bridged=list").split() == [BRIDGE, CARD]
    assert lab.done("run", "mini", "--net-bridged=list").split() == [BRIDGE, CARD]
    wrong = lab.tart("run", "mini", "--net-bridged=eth9")
    assert wrong.code == 64
    assert f"there are {BRIDGE}, {CARD}" in wrong.err
    assert not Path(lab.vm().run_log_path).exists() or "eth9" not in lab.vm().run_log_path.read_text()
