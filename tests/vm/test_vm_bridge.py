"""The backend bridge as its users call it, with a real guest: addresses, connections, suspension, deaths."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from host_networks import gone, processes
from namespaces import UPLINK_ADDRESS, Namespace, entered, namespace
from plugged_guests import saying
from vm_lab import Lab, kill, leaving_nobody, made, until

pytestmark = [pytest.mark.needs_root]

GATEWAY = "192.168.64.1"
SOFTNET = ("--net-softnet-expose", "2222:22")


@pytest.fixture(scope="module")
def network() -> Generator[Namespace]:
    with namespace(uplink=True) as made_one:
        yield made_one


@pytest.fixture(scope="module")
def lab(network: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Generator[Lab]:
    """A home on a host whose user has chosen the backend."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        lab = made(folder / "home", network)
        lab.done("network", "set", "backend", "bridge")
        yield lab


def greeted(network: Namespace, address: str, port: int = 22, within: float = 20) -> bool:
    """Whether the guest's SSH server answers at an address of the host."""
    with entered(network), socket.socket() as client:
        client.settimeout(within)
        try:
            client.connect((address, port))
            return client.recv(4) == b"SSH-"
        except OSError:
            return False


@contextmanager
def serving(network: Namespace, port: int) -> Generator[None]:
    """A server of the host on all its addresses, which greets."""
    with entered(network), saying("hello", "0.0.0.0", port):
        yield


def reaches(lab: Lab, address: str, port: int) -> bool:
    """Whether the guest hears the server."""
    return lab.sh(f"sleep 1 | timeout 2 nc {address} {port} 2>/dev/null; true") == "hello"


def test_connections_of_a_filtered_guest_whose_address_outlasts_a_suspension(lab: Lab, network: Namespace) -> None:
    with lab.running("mini", *SOFTNET), serving(network, 8000):
        address = lab.done("ip", "mini").strip()
        assert address.startswith("192.168.64.")
        assert address == lab.done("ip", "--resolver=agent", "mini").strip()
        assert greeted(network, address)
        for exposed in (UPLINK_ADDRESS, GATEWAY, "127.0.0.1"):
            assert greeted(network, exposed, 2222), exposed
        assert reaches(lab, GATEWAY, 8000)
        assert not reaches(lab, UPLINK_ADDRESS, 8000)
        told = json.loads(lab.done("network", "status", "--format", "json"))["Networks"]
        assert [(one["Backend"], one["Running"], one["VMs"][0]["Address"]) for one in told] == [("bridge", 1, address)]
        assert told[0]["VMs"][0]["Filter"]["Dropped"]["refused_packets"] > 0
        assert UPLINK_ADDRESS in lab.done("network", "log", "mini")
        lab.done("suspend", "mini")
        until(lambda: lab.state() == "suspended", "mini to be suspended")
    with entered(network):
        gone()
    with lab.running("mini"):
        assert lab.done("ip", "mini").strip() == address
        assert greeted(network, address)
        with entered(network):
            former = processes()["process"]
            os.kill(former, signal.SIGKILL)
            until(lambda: processes().get("process", former) != former, "another process")
        until(lambda: greeted(network, address, within=1), "the guest to be on the network again")


@pytest.mark.parametrize("victim", ["supervisor", "qemu"])
def test_after_a_kill_nothing_stays(lab: Lab, network: Namespace, victim: str) -> None:
    with leaving_nobody():
        started = lab.tart("run", "mini", "--no-graphics", "--detach")
        assert started.code == 0, started
        kill(lab.supervisor() if victim == "supervisor" else lab.qemu(), signal.SIGKILL)
        until(lambda: not lab.vm().supervisor(), "the run to end")
        with entered(network):
            gone()
