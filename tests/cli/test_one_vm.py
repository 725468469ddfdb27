"""One VM from end to end through the command, with a real guest in a network that leads nowhere."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from command import TART, Called, surroundings, tart
from machines import mini_guest
from namespaces import Namespace, namespace

Tart = Callable[..., Called]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    assert tart(home, "create", "--linux", "mini").code == 0
    words = ["--disk", str(mini_guest()), "--cpu", "1", "--memory", "256"]
    assert tart(home, "set", "mini", *words) == Called(0, "", "")
    return home


@pytest.fixture
def network() -> Generator[Namespace]:
    with namespace() as made:
        yield made


@pytest.fixture
def inside(home: Path, network: Namespace) -> Generator[Tart]:
    """Calls the command inside the network; the VM is stopped at the end."""

    def call(*words: str, stdin: bytes = b"") -> Called:
        done = subprocess.run(
            network.words(TART, *words),
            input=stdin,
            capture_output=True,
            timeout=100,
            check=False,
            env=surroundings(home),
        )
        return Called(done.returncode, done.stdout.decode(), done.stderr.decode())

    yield call
    call("stop", "mini")


def test_a_vm_is_run_used_and_stopped(inside: Tart, home: Path) -> None:
    started = inside("run", "mini", "--no-graphics", "--detach", "--wait-ready")
    assert started.code == 0, started.err

    (vm,) = json.loads(inside("list", "--format", "json").out)
    assert (vm["State"], vm["Running"]) == ("running", True)
    assert inside("run", "mini").code == 2
    assert inside("delete", "mini").code == 1
    assert inside("rename", "mini", "mini").code == 64

    assert inside("exec", "mini", "uname", "-s") == Called(0, "Linux\n", "")
    assert inside("exec", "mini", "sh", "-c", "echo out; echo err >&2; exit 7") == Called(7, "out\n", "err\n")
    assert inside("exec", "mini", "--", "echo", "--help").out == "--help\n"
    assert inside("exec", "-i", "mini", "cat", stdin=b"through").out == "through"
    assert inside("exec", "-t", "mini", "true").code == 1

    address = inside("ip", "mini", "--wait", "20")
    assert address.code == 0
    assert address.out.startswith("127.64.")

    with subprocess.Popen([TART, "wait", "mini"], stdout=subprocess.PIPE, text=True, env=surroundings(home)) as waiting:
        assert inside("stop", "mini") == Called(0, "", "")
        assert "stopped by user" in waiting.communicate(timeout=30)[0]
    assert inside("stop", "mini").code == 2
    assert "Stopping VM..." in inside("logs", "mini").out
    assert "READY" in inside("logs", "mini", "--serial").out
    assert inside("delete", "mini").code == 0


def test_the_foreground_run_ends_with_its_guest(inside: Tart, home: Path, network: Namespace) -> None:
    with subprocess.Popen(
        network.words(TART, "run", "mini", "--no-graphics"), stdout=subprocess.PIPE, text=True, env=surroundings(home)
    ) as run:
        try:
            while inside("exec", "mini", "true").code == 2:  # not running yet
                assert run.poll() is None
            run.send_signal(signal.SIGUSR2)  # the power button; nsenter has become the command
            assert run.wait(60) == 0
        finally:
            run.kill()
        assert run.stdout is not None
        assert "guest has stopped the virtual machine" in run.stdout.read()
    assert inside("wait", "mini").out.startswith("guest shut down")
