"""A suspended guest goes on where it was, or its state is refused and kept; it is never half of either."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vm_lab import BACKGROUND, HEADLESS, Lab, kill, leaving_nobody, until

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def resident(pid: int) -> int:
    """KiB of memory a process has now."""
    found = re.search(r"VmRSS:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def log_of(lab: Lab, name: str = "mini") -> str:
    return lab.vm(name).run_log_path.read_text()


def suspend(lab: Lab, name: str = "mini") -> None:
    lab.done("suspend", name)
    assert lab.done("wait", name) == "suspended (exit code 0)\n"
    assert lab.state(name) == "suspended"


def test_memory_clock_and_channel_survive_and_the_supervisor_stays_small(suspended: Lab) -> None:
    with leaving_nobody(), suspended.running():
        assert not suspended.vm().state_path.exists()
        boot = suspended.sh(f"echo kept > /dev/shm/mark; {BOOT_ID}")
        suspend(suspended)
        time.sleep(3)
        suspended.done("run", "mini", *BACKGROUND)
        assert suspended.sh(f"cat /dev/shm/mark; {BOOT_ID}") == f"kept\n{boot}"
        until(lambda: abs(int(suspended.sh("date +%s")) - time.time()) < 2, "the right time")
        for _ in range(50):
            suspended.done("exec", "mini", "true")
        assert resident(suspended.supervisor()) < 60 * 1024
        suspend(suspended)
        suspended.done("stop", "mini")
        assert suspended.state() == "stopped"
        assert not suspended.vm().state_path.exists()


def test_a_changed_vm_is_refused_and_keeps_its_state_until_the_change_is_undone(suspended: Lab) -> None:
    state = suspended.vm().state_path.stat()
    for option, value, back, difference in (
        ("--cpu", "2", "1", "CPUs changed since it was saved: 1 then, 2 now"),
        ("--memory", "300", "256", "memory changed since it was saved: 268435456 bytes then, 314572800 bytes now"),
    ):
        suspended.done("set", "mini", option, value)
        refused = suspended.tart("run", "mini", *HEADLESS)
        assert refused.code == 1
        assert difference in refused.err
        assert "tart stop" in refused.err
        assert os.path.samestat(suspended.vm().state_path.stat(), state)
        assert suspended.state() == "suspended"
        suspended.done("set", "mini", option, back)
    with suspended.running():
        assert suspended.sh("echo works") == "works"


@pytest.mark.parametrize(
    ("kept", "start", "reason"),
    [
        (0.5, None, "it is cut short"),
        (1.0, bytes(4096), "it is not whole"),
        (1.0, b"vzvm", "it was not written by this program"),
        (0.0, None, "it is not whole"),
        (0.0, b"TARTLET STATE\0\0\0\1\0\0\0\377\377\0\0{", "its header is damaged"),
    ],
    ids=["truncated", "no header", "foreign", "empty", "header damaged"],
)
def test_a_damaged_state_is_refused_and_kept(suspended: Lab, kept: float, start: bytes | None, reason: str) -> None:
    path = suspended.vm().state_path
    whole = path.read_bytes()
    rest = whole[: int(kept * len(whole))]
    refused_and_kept(suspended, (start or b"") + rest[len(start or b"") :], reason)


def test_a_state_that_looks_right_and_holds_nothing_is_refused_by_qemu_and_kept(suspended: Lab) -> None:
    whole = suspended.vm().state_path.read_bytes()
    refused_and_kept(suspended, whole[:4096] + bytes(len(whole) - 4096), "QEMU could not restore the saved state")


def refused_and_kept(suspended: Lab, broken: bytes, reason: str) -> None:
    path = suspended.vm().state_path
    path.unlink()
    path.write_bytes(broken)
    with leaving_nobody():
        refused = suspended.tart("run", "mini", *HEADLESS)
    assert refused.code == 1
    assert reason in refused.err
    assert path.read_bytes() == broken
    assert suspended.state() == "suspended"
    suspended.done("stop", "mini")
    assert suspended.state() == "stopped"


def test_what_fails_after_the_machine_was_restored_keeps_its_state(suspended: Lab) -> None:
    in_the_way = suspended.vm().path / "control.sock"
    in_the_way.unlink(missing_ok=True)
    in_the_way.mkdir()
    with leaving_nobody():
        refused = suspended.tart("run", "mini", *HEADLESS)
    assert (refused.code, "control.sock" in refused.err) == (1, True), refused
    assert suspended.state() == "suspended"
    assert re.match(r"crashed \(exit code 1\): .*control\.sock", suspended.done("wait", "mini"))
    in_the_way.rmdir()
    with suspended.running():
        assert suspended.sh("echo whole") == "whole"


@contextmanager
def small(folder: Path, mebibytes: int) -> Generator[Path]:
    """A file system of that size, mounted at `folder`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        # A supervisor that has given up its VM's lock may live on a little.
        until(lambda: subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0, "its end")


@pytest.mark.needs_root
def test_a_full_disk_fails_the_suspension_and_the_guest_goes_on(suspended: Lab, tmp_path: Path) -> None:
    with leaving_nobody(), small(tmp_path / "small", 400) as folder:
        lab = Lab(home=folder / "home", network=suspended.network)
        shutil.copytree(suspended.home, lab.home)
        with lab.started("run", "mini", *HEADLESS) as run:
            until(lambda: lab.tart("exec", "mini", "true").code == 0, "the agent")
            boot = lab.sh(BOOT_ID)
            with (folder / "filler").open("wb") as filler:
                free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
                filler.write(bytes(max(0, free - (8 << 20))))
            lab.done("suspend", "mini")
            until(lambda: "could not be saved" in log_of(lab), "the refusal")
            assert re.search("could not be saved and goes on running: .*No space left on device", log_of(lab))
            assert lab.sh(BOOT_ID) == boot
            assert not lab.vm().state_path.exists()
            assert os.listdir(lab.home / "tmp") == []
            with (folder / "filler").open("ab") as filler, pytest.raises(OSError, match="No space"):
                filler.write(bytes(16 << 20))
            lab.done("suspend", "mini")  # now not even a line of the log finds room
            time.sleep(0.5)
            assert lab.sh(BOOT_ID) == boot
            (folder / "filler").unlink()
            suspend(lab)
            assert run.wait(10) == 0
        with lab.running():
            assert lab.sh(BOOT_ID) == boot


def test_orders_during_a_suspension(suspended: Lab, tmp_path: Path) -> None:
    """Ctrl+C wins while the machine is being written; a second order to suspend changes nothing."""
    outcomes = set[str]()
    for number, delay in enumerate((0.0, 0.02, 0.05, 0.1)):
        lab = suspended.copied(tmp_path / f"stop-{number}")
        with leaving_nobody():
            lab.done("run", "mini", *BACKGROUND)
            supervisor = lab.supervisor()
            kill(supervisor, signal.SIGUSR1)
            time.sleep(delay)
            kill(supervisor, signal.SIGINT)
            told = lab.done("wait", "mini")
        outcomes.add(lab.state())
        assert (lab.state() == "suspended") == told.startswith("suspended"), (told, log_of(lab))
        if lab.state() == "suspended":
            with lab.running():
                assert lab.sh("echo whole") == "whole"
        shutil.rmtree(lab.home)
    assert "stopped" in outcomes
    with leaving_nobody():
        suspended.done("run", "mini", *BACKGROUND)
        supervisor = suspended.supervisor()
        kill(supervisor, signal.SIGUSR1)
        until(
            lambda: log_of(suspended).count("Suspending VM...") == 2, "the suspension, the second one of this machine"
        )
        kill(supervisor, signal.SIGUSR1)
        assert suspended.done("wait", "mini").startswith("suspended")
        assert log_of(suspended).count("Suspending VM...") == 2
        assert "could not be saved" not in log_of(suspended)
    with suspended.running():
        assert suspended.sh("echo whole") == "whole"


def test_an_order_to_suspend_that_comes_too_early_is_kept(suspended: Lab) -> None:
    with leaving_nobody(), suspended.started("run", "mini", *HEADLESS) as run:
        kill(suspended.supervisor(), signal.SIGUSR1)
        out, _ = run.communicate(timeout=30)
        assert (run.returncode, "VM suspended" in out) == (0, True), out
    with suspended.running():
        assert suspended.sh("echo whole") == "whole"


def test_a_clone_of_a_suspended_vm_goes_on_too_and_not_beside_it_under_one_address(suspended: Lab) -> None:
    def mac(name: str) -> str:
        return str(json.loads(suspended.vm(name).config_path.read_bytes())["macAddress"])

    suspended.done("clone", "mini", "twin")
    assert suspended.state("twin") == "suspended"
    assert mac("twin") == mac("mini")
    with suspended.running("twin"):
        boot = suspended.sh(BOOT_ID, "twin")
        with suspended.running("mini") as said:
            lines = said.splitlines()
            assert [line for line in lines if "same MAC address" in line] == lines[:1]
            assert '"mini" gets a new one' in lines[1]
            assert mac("mini") != mac("twin")
            assert not suspended.vm("mini").state_path.exists()
            assert suspended.sh(BOOT_ID, "mini") != boot
