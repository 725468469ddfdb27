"""Several processes at one VM at once: one of them wins, the others say why they do not, and nothing is torn."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from command import TART, surroundings
from disk_files import check, guest_sees
from leftovers import process_ids
from vm_lab import BACKGROUND, HEADLESS, Lab, is_child, leaving_nobody, until


def side_by_side(lab: Lab, commands: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    """Start all of them at once; how each one ended."""
    with ExitStack() as held:
        started = [
            held.enter_context(
                subprocess.Popen(
                    lab.network.words(TART, *words),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=surroundings(lab.home),
                )
            )
            for words in commands
        ]
        return [(process.returncode, out) for process in started for out, _ in [process.communicate(timeout=60)]]


@contextmanager
def detached(lab: Lab, name: str = "mini") -> Generator[None]:
    lab.done("run", name, "--no-graphics", "--detach")
    try:
        yield
    finally:
        lab.end(name)


def mac(lab: Lab, name: str) -> str:
    return str(json.loads(lab.vm(name).config_path.read_bytes())["macAddress"])


def test_of_many_runs_of_one_vm_exactly_one_wins(stopped: Lab) -> None:
    with leaving_nobody():
        ended = side_by_side(stopped, [["run", "mini", "--no-graphics", "--detach"]] * 4)
        assert sorted(code for code, _ in ended) == [0, 2, 2, 2], ended
        assert all("already running" in said for code, said in ended if code)
        assert stopped.state() == "running"
        stopped.done("stop", "mini")


def test_of_a_run_and_a_deletion_one_wins(stopped: Lab) -> None:
    for number in range(6):
        name = f"race-{number}"
        stopped.done("clone", "mini", name)
        with leaving_nobody():
            orders = [["run", name, "--no-graphics", "--detach"], ["delete", name]]
            run, deletion = side_by_side(stopped, orders)
            there = stopped.vm(name).path.exists()
            assert (run[0] == 0, deletion[0] == 0) == (there, not there), (run, deletion)
            assert (stopped.vm(name).supervisor() != 0) == there
            if there:
                stopped.done("stop", name)
                stopped.done("delete", name)
        assert stopped.done("list").count("race") == 0


def test_of_a_run_and_a_clone_onto_the_same_name_the_vm_is_old_or_new(stopped: Lab) -> None:
    for number in range(4):
        stopped.done("clone", "mini", "target")
        old = mac(stopped, "target")
        with leaving_nobody():
            orders = [["run", "target", "--no-graphics", "--detach"], ["clone", "mini", "target"]]
            run, clone = side_by_side(stopped, orders if number % 2 else orders[::-1])
            run, clone = (run, clone) if number % 2 else (clone, run)
            assert run[0] == 0, run
            assert stopped.state("target") == "running"
            assert (clone[0] == 0) == (mac(stopped, "target") != old), clone
            if clone[0]:
                assert "is running" in clone[1]
            stopped.done("stop", "target")


def test_ten_clones_at_once(stopped: Lab) -> None:
    before = guest_sees(stopped.vm().path)
    names = [f"clone-{number}" for number in range(10)]
    ended = side_by_side(stopped, [["clone", "mini", name] for name in names])
    assert [code for code, _ in ended] == [0] * 10, ended
    for name in ("mini", *names):
        check(stopped.vm(name).path)
    assert guest_sees(stopped.vm().path) == guest_sees(stopped.vm("clone-9").path) == before
    assert len({mac(stopped, name) for name in ("mini", *names)}) == 11
    assert list((stopped.home / "tmp").iterdir()) == []


def test_a_running_vm_is_renamed_changed_and_suspended_under_its_new_name(suspended: Lab) -> None:
    with leaving_nobody():
        suspended.done("run", "mini", *BACKGROUND)
        boot = suspended.sh("cat /proc/sys/kernel/random/boot_id")
        supervisor = suspended.supervisor()
        waiting = subprocess.Popen(
            [TART, "wait", "mini"], stdout=subprocess.PIPE, text=True, env=surroundings(suspended.home)
        )
        with waiting:
            until(lambda: "mini" in open_files(waiting.pid), "the waiting")
            suspended.done("rename", "mini", "moved")
            suspended.done("set", "moved", "--display", "800x600")
            suspended.done("set", "moved", "--display", "1024x768")
            assert suspended.state("moved") == "running"
            assert suspended.vm("moved").supervisor() == supervisor
            assert suspended.sh("echo here", "moved") == "here"
            assert suspended.done("ip", "moved", "--wait", "5")
            suspended.done("suspend", "moved")
            assert waiting.communicate(timeout=20)[0] == "suspended (exit code 0)\n"
        assert suspended.vm("moved").state_path.exists()
        assert not suspended.vm("mini").path.exists()
        suspended.done("run", "moved", *BACKGROUND)
        assert suspended.sh("cat /proc/sys/kernel/random/boot_id", "moved") == boot
        suspended.done("rename", "moved", "again")
        suspended.done("stop", "again")
        assert suspended.done("wait", "again") == "stopped by user (exit code 0)\n"


def open_files(pid: int) -> set[str]:
    """Names of the files a process has open; none when it has ended."""
    found = set[str]()
    with suppress(FileNotFoundError, ProcessLookupError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                found.add(os.path.basename(os.readlink(f"/proc/{pid}/fd/{number}")))
    return found


def test_a_vm_that_is_renamed_while_it_resumes_forgets_its_state_where_it_is(suspended: Lab) -> None:
    with leaving_nobody(), suspended.started("run", "mini", *HEADLESS) as run:
        supervisor = suspended.supervisor()

        def reads_its_state() -> bool:
            children = (pid for pid in process_ids() if is_child(pid, supervisor))
            return any({"disk.img", "nvram.bin"} <= open_files(pid) for pid in children)

        until(reads_its_state, "QEMU")
        assert suspended.vm().state_path.exists()
        suspended.done("rename", "mini", "moved")
        until(lambda: suspended.tart("exec", "moved", "true").code == 0 or run.poll() is not None, "the agent")
        assert run.poll() is None
        assert not suspended.vm("moved").state_path.exists()
        suspended.done("stop", "moved")


def test_a_running_vm_is_cloned_as_a_power_cut_would_leave_it(stopped: Lab) -> None:
    with leaving_nobody(), detached(stopped):
        time.sleep(0.3)
        stopped.done("clone", "mini", "copy")
        check(stopped.vm("copy").path)
        assert stopped.state("copy") == "stopped"
        assert stopped.state("mini") == "running"
        assert mac(stopped, "copy") != mac(stopped, "mini")
        refused = stopped.tart("clone", "copy", "mini")
        assert refused.code in (1, 2)
        assert '"mini" is running' in refused.err


def test_twins_in_two_homes_of_one_user_do_not_run_under_one_address(suspended: Lab, tmp_path: Path) -> None:
    again, afresh = suspended.copied(tmp_path / "again"), suspended.copied(tmp_path / "afresh")
    afresh.done("stop", "mini")  # which drops its saved machine
    with leaving_nobody(), detached(suspended):
        called = again.tart("run", "mini", "--no-graphics", "--detach")
        assert called.code == 1
        assert f"another VM of this network runs with the MAC address {mac(again, 'mini')}" in called.err
        assert "tart set NAME --random-mac" in called.err
        assert again.state() == "suspended"
        with afresh.running() as said:
            first, second = said.splitlines()
            assert "another home" in first
            assert mac(suspended, "mini") in first
            assert '"mini" gets a new one' in second
            assert mac(afresh, "mini") != mac(suspended, "mini")
            vms = json.loads(afresh.done("network", "status", "--format", "json"))["Networks"][0]["VMs"]
            assert {vm["MAC"] for vm in vms} == {mac(afresh, "mini"), mac(suspended, "mini")}
