"""A whole guest whose only agent is behind vsock, as images made for the original have it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from command import TART, surroundings
from leftovers import process_ids
from vm_lab import Lab, until, words_of
from vsock_lab import give_vsock_agent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def foreign_home(tmp_path_factory: pytest.TempPathFactory, suspended_debian_home: Lab) -> Lab:
    """`debian`, suspended. Never to be changed: copy it."""
    lab = suspended_debian_home.copied(tmp_path_factory.mktemp("foreign") / "home")
    with lab.running("debian"):
        give_vsock_agent(lab, "debian", tmp_path_factory.mktemp("agent"))
        lab.done("suspend", "debian")
        lab.done("wait", "debian", timeout=120)
    return lab


@pytest.fixture
def foreign(foreign_home: Lab, tmp_path: Path) -> Generator[Lab]:
    """A home of the test's own in which `debian` runs."""
    lab = foreign_home.copied(tmp_path / "home")
    with lab.running("debian"):
        yield lab


def carriers(lab: Lab) -> list[int]:
    """The processes that carry the VM's vsock device."""
    children = Path(f"/proc/{lab.vm('debian').supervisor()}/task").glob("*/children")
    return [int(pid) for file in children for pid in file.read_text().split() if b"tartlet.vsock" in words_of(int(pid))]


def test_everything_goes_through_it(foreign: Lab) -> None:
    assert foreign.done("exec", "-t", "debian", "stty", "size") == "24 80\r\n"
    assert foreign.tart("exec", "debian", "sh", "-c", "exit 7").code == 7
    assert foreign.tart("exec", "debian", "no-such").err.startswith("no-such: not found in /usr")
    data = os.urandom(300_000)
    words = foreign.network.words(TART, "exec", "-i", "debian", "cat")
    done = subprocess.run(
        words, input=data, capture_output=True, timeout=60, check=True, env=surroundings(foreign.home)
    )
    assert done.stdout == data
    words = ["--env", "GREETING=a b", "--workdir", "/var/log", "--user", "root"]
    said = foreign.done("exec", *words, "debian", "sh", "-c", 'pwd; id -un; echo "$GREETING"')
    assert said == "/var/log\nroot\na b\n"
    assert foreign.done("ip", "debian", "--resolver=agent").strip() == foreign.sh("hostname -I", "debian").split()[0]
    (foreign.home / "sent").write_bytes(data)
    foreign.done("cp", str(foreign.home / "sent"), "debian:")
    foreign.done("cp", "debian:sent", str(foreign.home / "back"))
    assert (foreign.home / "back").read_bytes() == data
    assert "carried by Tartlet itself" in foreign.done("doctor", "debian").splitlines()[-1]


def test_two_clients_at_once_and_one_that_floods(foreign: Lab) -> None:
    """Nobody reads what the flood brings, and neither the supervisor nor the carrier keeps it."""
    with foreign.started("exec", "debian", "cat", "/dev/zero"):
        for number in range(3):
            assert foreign.tart("exec", "debian", "sh", "-c", f"exit {number}").code == number
        (carrier,) = carriers(foreign)
        for pid, most in ((foreign.vm("debian").supervisor(), 120), (carrier, 40)):
            status = Path(f"/proc/{pid}/status").read_text()
            assert int(status.split("VmRSS:")[1].split()[0]) >> 10 < most
    until(lambda: foreign.tart("exec", "debian", "pgrep", "-f", "^cat /dev/zero").code == 1, "the flood's end")


def test_the_machine_is_saved_without_the_device(foreign: Lab) -> None:
    assert foreign.sh("id -un", "debian") == "admin"
    (before,) = carriers(foreign)
    foreign.done("snapshot", "create", "debian", "one")
    assert carriers(foreign) == []
    assert foreign.sh("id -un", "debian") == "admin"
    assert carriers(foreign) not in ([], [before])
    foreign.done("suspend", "debian")
    foreign.done("wait", "debian", timeout=120)
    with foreign.running("debian"):
        assert foreign.sh("id -un", "debian") == "admin"


INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t tmpfs tmpfs /tmp
modprobe vmw_vsock_virtio_transport
exec python3 /opt/agent/vsock_guest_agent.py
"""
REBOOT = (
    f"printf '{INIT}' > /opt/init; chmod +x /opt/init; "
    "sed -i 's|^options.*|& init=/opt/init|' /boot/efi/loader/entries/*; sync; systemctl reboot --force --force"
)
"""The kernel starts the agent and nothing else: the device is new to it, and Debian's services would take a minute."""


def test_it_outlives_its_agent_its_carrier_and_a_reboot(foreign: Lab) -> None:
    lab = foreign
    with lab.started("exec", "debian", "sleep", "7681") as waiting:
        until(lambda: lab.tart("exec", "debian", "pgrep", "-f", "^sleep 7681").code == 0, "the command")
        lab.tart("exec", "--user", "root", "debian", "systemctl", "restart", "vsock-agent")
        assert waiting.wait(60) == 1
    assert lab.sh("id -un", "debian") == "admin"
    (carrier,) = carriers(lab)
    os.kill(carrier, signal.SIGKILL)
    until(lambda: lab.tart("exec", "debian", "true").code == 0, "another carrier", within=60)
    before = lab.sh("cat /proc/sys/kernel/random/boot_id", "debian")
    lab.done("exec", "--user", "root", "--detach", "debian", "sh", "-c", REBOOT)
    until(
        lambda: lab.tart("exec", "debian", "cat", "/proc/sys/kernel/random/boot_id").out.strip() not in ("", before),
        "the guest",
        within=240,
    )


def test_our_own_takes_over(foreign: Lab) -> None:
    foreign.done("agent", "install", "debian", timeout=120)
    until(lambda: not carriers(foreign), "the device to go")
    assert "through Tartlet's own agent" in foreign.done("doctor", "debian")


def test_nothing_is_left_of_it(foreign: Lab) -> None:
    assert foreign.sh("id -un", "debian") == "admin"
    (carrier,) = carriers(foreign)
    os.kill(foreign.vm("debian").supervisor(), signal.SIGKILL)
    until(lambda: carrier not in process_ids(), "the carrier's end")
