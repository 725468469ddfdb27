"""`run --detach`: what the caller is told, and when."""

from __future__ import annotations

import os
import signal

import pytest

from vm_lab import BACKGROUND, Lab, kill, leaving_nobody, until


def test_a_caller_that_captures_output_is_not_kept_waiting(suspended: Lab) -> None:
    with leaving_nobody():
        called = suspended.tart("run", "mini", "--no-graphics", "--detach")  # which reads to the end of its output
        assert (called.code, called.err) == (0, "")
        supervisor = suspended.supervisor()
        assert os.getsid(supervisor) == supervisor
        assert [os.readlink(f"/proc/{supervisor}/fd/{number}") for number in range(3)] == [
            "/dev/null",
            "/dev/null",
            str(suspended.vm().run_log_path),
        ]
        suspended.done("stop", "mini")


@pytest.mark.parametrize("damage", ["disk", "extra disk", "too much memory"])
def test_a_vm_that_cannot_start_is_told_by_the_caller(stopped: Lab, damage: str) -> None:
    words = list(BACKGROUND)
    if damage == "disk":
        stopped.vm().disk_path.write_bytes(b"QFI\xfb\0\0\0\x03" + bytes(200))
        stopped.vm().config_path.write_text(stopped.vm().config_path.read_text().replace('"raw"', '"qcow2"'))
        culprit = "disk.img"
    elif damage == "extra disk":
        words += ["--disk", "/nowhere/disk.img"]
        culprit = "/nowhere/disk.img"
    else:
        stopped.done("set", "mini", "--memory", str(1 << 30))  # 1 PiB
        culprit = "QEMU ended with exit status 1"
    with leaving_nobody():
        for _ in range(2):
            called = stopped.tart("run", "mini", *words)
            assert called.code == 1, called
            assert culprit in called.err
            assert "Traceback" not in called.err
    assert stopped.state() == "stopped"


def test_ctrl_c_while_the_vm_starts_and_while_its_agent_is_awaited(stopped: Lab) -> None:
    with leaving_nobody():
        with stopped.started("run", "mini", *BACKGROUND) as run:
            stopped.supervisor()
            run.send_signal(signal.SIGINT)
            out, _ = run.communicate(timeout=20)
            assert (run.returncode, "Stopping VM..." in out) == (1, True), out
        assert stopped.state() == "stopped"
        with stopped.started("run", "mini", *BACKGROUND) as run:
            standard_error = f"/proc/{stopped.supervisor()}/fd/2"
            until(lambda: os.readlink(standard_error) == str(stopped.vm().run_log_path), "the VM without its agent")
            run.send_signal(signal.SIGINT)
            out, _ = run.communicate(timeout=20)
            assert run.returncode == 1
            assert 'VM "mini" ended before its guest agent answered: stopped by user' in out
            assert "tart logs mini" in out
        assert stopped.state() == "stopped"


def test_a_vm_that_ends_before_its_agent_answers_is_told(stopped: Lab) -> None:
    with leaving_nobody(), stopped.started("run", "mini", *BACKGROUND) as run:
        until(lambda: stopped.vm().path.joinpath("control.sock").exists(), "the control socket")
        kill(stopped.qemu())  # at about the moment at which the guest begins to run
        out, _ = run.communicate(timeout=20)
        assert run.returncode == 1
        assert "QEMU was killed by SIGKILL" in out
    with leaving_nobody(), stopped.started("run", "mini", *BACKGROUND) as run:
        standard_error = f"/proc/{stopped.supervisor()}/fd/2"
        until(lambda: os.readlink(standard_error) == str(stopped.vm().run_log_path), "the VM without its agent")
        kill(stopped.qemu())
        out, _ = run.communicate(timeout=20)
        assert run.returncode == 1
        assert "ended before its guest agent answered: crashed (exit code -9): QEMU was killed by SIGKILL" in out


def test_an_agent_that_does_not_answer_in_time(stopped: Lab) -> None:
    stopped.done("create", "--linux", "blank", "--disk-size", "1")
    words = [*BACKGROUND, "--wait-ready-timeout", "1"]
    with leaving_nobody():
        called = stopped.tart("run", "blank", *words)
        assert called.code == 124
        message, hint = called.err.splitlines()
        assert 'VM "blank" runs, but its guest agent did not answer within 1 second' in message
        assert "left running" in hint
        assert "tart logs blank --serial" in hint
        assert stopped.state("blank") == "running"
        called = stopped.tart("wait", "blank", "--timeout", "1")
        assert (called.code, called.out) == (124, "")
        assert 'VM "blank" still runs after 1 second' in called.err
        assert stopped.state("blank") == "running"
        stopped.done("stop", "blank")
        assert stopped.done("wait", "blank", "--timeout", "1") == "stopped by user (exit code 0)\n"
