"""How a run ends, what it says then, what `tart wait` tells of it, and that no process outlives it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command import TART, surroundings
from leftovers import process_ids
from standing_networks import parts
from vm_lab import BACKGROUND, HEADLESS, Lab, is_child, kill, leaving_nobody, until, words_of


def ended(run: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = run.communicate(timeout=30)
    return run.returncode, out


@contextmanager
def waiting_for(lab: Lab) -> Generator[subprocess.Popen[str]]:
    """`tart wait`, begun now."""
    words = (TART, "wait", "mini")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=surroundings(lab.home)) as process:
        try:
            yield process
        finally:
            process.kill()


def answers(lab: Lab) -> bool:
    return lab.tart("exec", "mini", "true").code == 0


def test_a_run_in_the_foreground_says_what_it_offers_and_stops_at_ctrl_c(stopped: Lab) -> None:
    with leaving_nobody(), stopped.started("run", "mini", *HEADLESS, "--vnc-experimental", "--serial") as run:
        assert run.stdout is not None
        said = [run.stdout.readline() for _ in range(2)]
        vnc = [line for line in said if line.startswith("VNC server is running at ")]
        assert len(vnc) == 1
        assert re.fullmatch(r"VNC server is running at vnc://:[^@/ ]+@127\.0\.0\.1:[0-9]+\n", vnc[0]), vnc
        (serial,) = [re.findall(r"serial terminal is (/dev/pts/[0-9]+)\n", line) for line in said if "serial" in line]
        assert Path(serial[0]).is_char_device()
        again = stopped.tart("run", "mini")
        assert (again.code, again.out) == (2, "")
        assert again.err.startswith('VM "mini" is already running\n')
        refused = stopped.tart("delete", "mini")
        assert refused.code == 1
        assert "is running" in refused.err
        assert stopped.state() == "running"
        run.send_signal(signal.SIGINT)
        code, rest = ended(run)
        assert (code, rest) == (0, "Stopping VM...\n")
    assert stopped.state() == "stopped"
    assert stopped.done("wait", "mini") == "stopped by user (exit code 0)\n"


def test_ctrl_c_before_the_vm_runs_gives_the_start_up(stopped: Lab) -> None:
    with leaving_nobody(), stopped.started("run", "mini", *HEADLESS) as run:
        stopped.supervisor()
        run.send_signal(signal.SIGINT)
        assert ended(run)[0] == 0
    assert stopped.state() == "stopped"
    assert stopped.done("wait", "mini").startswith("stopped by user")


def test_the_guest_obeys_its_power_button(suspended: Lab) -> None:
    with leaving_nobody(), suspended.started("run", "mini", *HEADLESS) as run:
        until(lambda: answers(suspended), "the agent")
        run.send_signal(signal.SIGUSR2)
        code, said = ended(run)
        assert code == 0
        assert re.search(r"^guest has stopped the virtual machine$", said, re.MULTILINE), said
        assert "Requesting guest OS to stop..." in said
    assert suspended.done("wait", "mini") == "guest shut down (exit code 0)\n"


def test_qemu_is_killed_and_the_tail_of_its_log_is_told_even_after_a_rename(suspended: Lab) -> None:
    with leaving_nobody(), suspended.started("run", "mini", *HEADLESS) as run:
        suspended.supervisor()
        until(lambda: suspended.vm().path.joinpath("control.sock").exists(), "the control socket")
        suspended.done("rename", "mini", "moved")
        with (suspended.vm("moved").qemu_log_path).open("a") as log:
            log.write("qemu: something went wrong\n")
        kill(suspended.qemu("moved"))
        code, said = ended(run)
        assert code == 0
        assert "guest has stopped the virtual machine due to error: QEMU was killed by SIGKILL" in said
        assert "qemu: something went wrong" in said
    told = suspended.done("wait", "moved")
    assert told.startswith("crashed (exit code -9): QEMU was killed by SIGKILL")
    assert "something went wrong" in told


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_supervisor_is_killed_and_takes_everybody_along(suspended: Lab, number: signal.Signals) -> None:
    with leaving_nobody():
        suspended.done("run", "mini", *BACKGROUND)
        supervisor = suspended.supervisor()
        children = [words_of(pid) for pid in process_ids() if is_child(pid, supervisor)]
        assert len([words for words in children if b"qemu-system" in words]) == 1
        with waiting_for(suspended) as waiting:
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(0.5)
            kill(supervisor, number)
            assert waiting.communicate(timeout=30)[0] == "killed\n"
        assert suspended.state() == "stopped"
        assert suspended.tart("stop", "mini").code == 2


def test_the_network_helper_dies_and_the_run_says_so(suspended: Lab) -> None:
    with leaving_nobody(), suspended.started("run", "mini", *HEADLESS) as run:
        suspended.supervisor()
        until(lambda: answers(suspended), "the agent")
        kill(parts(suspended.network.holder)["holder"])
        code, said = ended(run)
        assert code == 1
        assert "the shared network of this user's VMs ended" in said
    assert re.match(r"crashed \(exit code 1\): .*shared network .* ended", suspended.done("wait", "mini"))


def test_stop_frees_the_lock_and_a_frozen_supervisor_is_killed(suspended: Lab) -> None:
    with leaving_nobody():
        suspended.done("run", "mini", *BACKGROUND)
        supervisor = suspended.supervisor()
        kill(supervisor, signal.SIGSTOP)
        begun = time.monotonic()
        suspended.done("stop", "mini", "--timeout", "1")
        assert 0.9 < time.monotonic() - begun < 20, "not the thirty seconds of a stop without --timeout"
        assert suspended.vm().supervisor() == 0
        suspended.done("delete", "mini")


def test_nobody_reads_what_a_run_says_and_the_vm_goes_on(suspended: Lab) -> None:
    with leaving_nobody(), suspended.started("run", "mini", *HEADLESS, "--vnc-experimental") as run:
        assert run.stdout is not None
        run.stdout.close()
        until(lambda: answers(suspended), "the agent")
        run.send_signal(signal.SIGUSR2)
        run.wait(20)
    assert suspended.done("wait", "mini") == "guest shut down (exit code 0)\n"


def test_a_log_on_a_full_disk_does_not_end_the_vm(stopped: Lab) -> None:
    """The log is a device that is always full."""
    log = stopped.vm().run_log_path
    log.unlink(missing_ok=True)
    log.symlink_to("/dev/full")
    with leaving_nobody(), stopped.started("run", "mini", *HEADLESS) as run:
        until(lambda: stopped.vm().path.joinpath("control.sock").exists(), "the control socket")
        run.send_signal(signal.SIGINT)
        assert ended(run) == (0, "Stopping VM...\n")
    assert stopped.done("wait", "mini") == "stopped by user (exit code 0)\n"


def test_a_terminal_that_exists_becomes_the_guests_serial_port(stopped: Lab) -> None:
    ours, theirs = os.openpty()
    try:
        with leaving_nobody(), stopped.started("run", "mini", *HEADLESS, "--serial-path", os.ttyname(theirs)) as run:
            said = b""
            while b"READY" not in said:
                said += os.read(ours, 4096)
            run.send_signal(signal.SIGINT)
            assert ended(run) == (0, "Stopping VM...\n")
    finally:
        os.close(ours)
        os.close(theirs)
    refused = stopped.tart("run", "mini", *HEADLESS, "--serial-path", "/dev/null")
    assert refused.code != 0
    assert "/dev/null" in refused.err
