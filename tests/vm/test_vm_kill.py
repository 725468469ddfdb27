"""The supervisor is killed at many moments: afterwards the VM is stopped or suspended, whole, and nobody is left."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from disk_files import check
from vm_lab import BACKGROUND, HEADLESS, Lab, kill, leaving_nobody, until

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def killed_after(lab: Lab, delay: float, name: str = "mini") -> None:
    """Start the VM and kill the command `delay` seconds later."""
    with leaving_nobody(), lab.started("run", name, *HEADLESS) as run:
        time.sleep(delay)
        run.kill()
        run.wait(10)


def killed_once(lab: Lab, happened: Callable[[], bool], what: str) -> float:
    """Start the VM and kill the command when something has happened; the seconds that took."""
    begun = time.monotonic()
    with leaving_nobody(), lab.started("run", "mini", *HEADLESS) as run:
        until(happened, what)
        taken = time.monotonic() - begun
        run.kill()
        run.wait(10)
    return taken


def nothing_half(lab: Lab, name: str = "mini") -> str:
    """The VM's state, after having seen that everything is whole and nothing is left in the way."""
    lab.done("list")  # any command deletes what a killed one has left
    state = lab.state(name)
    folder = lab.vm(name).path
    assert state == ("suspended" if (folder / "state.vzvmsave").exists() else "stopped")
    assert list((lab.home / "tmp").iterdir()) == []
    assert json.loads((folder / "config.json").read_bytes())["version"] == 1
    check(folder)
    return state


def runs_now(lab: Lab, name: str = "mini") -> None:
    """The VM can be started, which also removes what was half written; its guest is not waited for."""
    (lab.vm(name).path / ".last-run.json.half").write_text("{")
    with lab.started("run", name, *HEADLESS) as run:
        until(lambda: lab.tart("exec", name, "true").code != 2, "the control socket")
        run.send_signal(signal.SIGINT)
        assert run.wait(20) == 0
    assert not [path.name for path in lab.vm(name).path.iterdir() if path.name.startswith(".")]


def test_killed_at_any_moment_of_starting(stopped: Lab) -> None:
    whole = killed_once(stopped, (stopped.vm().path / "control.sock").exists, "the control socket")
    for step in range(12):
        killed_after(stopped, step / 10 * whole)
        assert nothing_half(stopped) == "stopped"
    runs_now(stopped)
    assert stopped.done("wait", "mini").startswith("stopped by user")


def test_killed_at_any_moment_of_resuming(suspended: Lab, tmp_path: Path) -> None:
    """Before the state is deleted the VM is suspended and resumes; from then on it is stopped, as after a power cut."""
    boot: str | None = None
    outcomes: list[str] = []
    lab = suspended.copied(tmp_path / "resumed")
    state = lab.vm().path / "state.vzvmsave"
    whole = killed_once(lab, lambda: not state.exists(), "the end of the saved state")
    assert nothing_half(lab) == "stopped"
    for step in range(11):
        lab = suspended.copied(tmp_path / f"resumed-{step}")
        killed_after(lab, step / 10 * whole)
        outcomes.append(nothing_half(lab))
        if outcomes[-1] == "suspended" and step % 3 == 0:
            with leaving_nobody(), lab.running():
                now = lab.sh(BOOT_ID)
                assert boot in (None, now)
                boot = now
        shutil.rmtree(lab.home)
    assert outcomes[0] == "suspended"


def test_killed_at_any_moment_of_suspending(suspended: Lab, tmp_path: Path) -> None:
    suspended.done("run", "mini", *BACKGROUND)
    boot = suspended.sh(BOOT_ID)
    begun = time.monotonic()
    suspended.done("suspend", "mini")
    suspended.done("wait", "mini")
    whole = time.monotonic() - begun
    outcomes: list[str] = []
    for step in range(9):
        lab = suspended.copied(tmp_path / f"suspending-{step}")
        with leaving_nobody():
            lab.done("run", "mini", *BACKGROUND)
            supervisor = lab.supervisor()
            kill(supervisor, signal.SIGUSR1)
            time.sleep(step / 8 * whole)
            with_luck(lambda pid=supervisor: kill(pid))  # type: ignore[misc]
            until(lambda home=lab: home.vm().supervisor() == 0, "its end")  # type: ignore[misc]
        outcomes.append(nothing_half(lab))
        if outcomes[-1] == "suspended":
            with lab.running():
                assert lab.sh(BOOT_ID) == boot
        shutil.rmtree(lab.home)
    assert outcomes[0] == "stopped"
    assert "suspended" in outcomes


def with_luck(done: Callable[[], None]) -> None:
    """Do it, if there still is somebody to do it to."""
    try:
        done()
    except ProcessLookupError:
        return


def test_a_killed_machine_that_was_saved_whole_resumes(suspended: Lab) -> None:
    """The moment between the state's taking its place and QEMU's end."""
    with leaving_nobody():
        suspended.done("run", "mini", *BACKGROUND)
        supervisor, state = suspended.supervisor(), suspended.vm().state_path
        boot = suspended.sh(BOOT_ID)
        kill(supervisor, signal.SIGUSR1)
        until(state.exists, "the state")
        with_luck(lambda: kill(supervisor))
    assert nothing_half(suspended) == "suspended"
    with suspended.running():
        assert suspended.sh(BOOT_ID) == boot


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_qemu_dies_or_hangs_while_the_machine_is_saved(suspended: Lab, number: signal.Signals) -> None:
    with leaving_nobody():
        suspended.done("run", "mini", *BACKGROUND)
        supervisor, qemu = suspended.supervisor(), suspended.qemu()
        kill(supervisor, signal.SIGUSR1)
        time.sleep(0.03)
        with_luck(lambda: kill(qemu, number))
        if number is signal.SIGSTOP:
            suspended.done("stop", "mini", "--timeout", "10")
        told = suspended.done("wait", "mini")
    assert (nothing_half(suspended) == "suspended") == told.startswith("suspended"), told
