"""What `tart network status` tells of the filter of a running VM."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import Any

import pytest

from command import TART, surroundings
from vm_lab import HEADLESS, Lab

pytestmark = pytest.mark.needs_root


def told(lab: Lab) -> dict[str, Any]:
    """The one VM in the shared network."""
    (network,) = json.loads(lab.done("network", "status", "--format", "json"))["Networks"]
    (vm,) = network["VMs"]
    found: dict[str, Any] = vm
    return found


def test_the_policy_and_what_it_dropped(suspended: Lab) -> None:
    with suspended.running("mini", "--net-softnet-block=8.0.0.0/8", "--net-softnet-allow=10.0.0.0/8,1.1.1.0/24"):
        before = told(suspended)["Filter"]
        assert (before["Allow"], before["Block"], before["Revision"]) == (
            ["1.1.1.0/24", "10.0.0.0/8"], ["8.0.0.0/8"], None,
        )  # fmt: skip
        suspended.sh("nc -w 1 8.8.8.8 53; true")
        assert told(suspended)["Filter"]["Dropped"]["refused_packets"] > before["Dropped"]["refused_packets"]
        suspended.done("rename", "mini", "other")
        row = suspended.done("network", "status").splitlines()[-1].split()
        assert row[-5:-2] == ["2", "1", "-"]
        assert int(row[-2]) > 0
        suspended.done("rename", "other", "mini")


def test_the_name_that_a_controller_gave_the_policy(suspended: Lab) -> None:
    ours, theirs = socket.socketpair()
    words = suspended.network.words(TART, "run", "mini", *HEADLESS, f"--net-softnet-control-fd={theirs.fileno()}")
    with (
        ours,
        subprocess.Popen(
            words, pass_fds=[theirs.fileno()], env=surroundings(suspended.home), stdout=subprocess.DEVNULL
        ) as run,
    ):
        theirs.close()
        ours.settimeout(30)
        params = {"allow": ["10.0.0.0/8"], "block": list[str](), "desiredRevision": "se\nven"}
        asked = {"jsonrpc": "2.0", "id": 1, "method": "softnet.policy.set", "params": params}
        ours.sendall(json.dumps(asked).encode() + b"\n")
        assert b"result" in ours.recv(65536)
        state = told(suspended)["Filter"]
        assert (state["Allow"], state["Revision"]) == (["10.0.0.0/8"], "se\nven")
        assert suspended.done("network", "status").splitlines()[-1].split()[-3] == r"se\nven"
        suspended.done("stop", "mini")
        run.wait(30)
