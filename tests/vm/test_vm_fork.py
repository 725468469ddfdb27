"""Forks go on from one moment and are machines of their own: nothing that one does is seen by another."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from disk_files import check
from tartlet.host.memory import frozen_copy, memory_file
from tartlet.units import MIB
from vm_lab import Lab, kill, leaving_nobody, until

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
MARK = (
    "yes MARK | tr '\\n' ' ' | head -c 3145728 > /tmp/d; "
    "dd if=/tmp/d of=/dev/vda2 bs=1M oflag=direct conv=fsync 2>/dev/null; echo MARK > /dev/shm/mark"
)
SEEN = "cat /dev/shm/mark; dd if=/dev/vda2 bs=1M count=1 iflag=direct 2>/dev/null | head -c 4"


def root(lab: Lab, script: str, name: str = "mini") -> str:
    """What a script prints in the guest when root runs it."""
    return lab.sh(script, name, user="root")


def write(lab: Lab, mark: str, name: str = "mini") -> None:
    """Four letters on the disk and in memory."""
    root(lab, MARK.replace("MARK", mark), name)


def pss(pid: int) -> int:
    """KiB of memory that a process takes, with its share of what it shares."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_forks_of_a_running_vm(suspended: Lab) -> None:
    names = ["one", "two", "three"]
    with leaving_nobody(), suspended.running():
        try:
            boot = root(suspended, BOOT_ID)
            write(suspended, "base")
            made = suspended.tart("fork", "mini", *names, "mini", "a/b", timeout=100)
            assert (made.code, made.out.split()) == (1, names), made
            assert 'VM "mini" already exists' in made.err
            assert '"a/b" should be a local name' in made.err
            write(suspended, "MINI")
            for name in names:
                assert root(suspended, f"{BOOT_ID}; {SEEN}", name).split() == [boot, "base", "base"]
            write(suspended, "ONE.", "one")
            seen = {name: root(suspended, SEEN, name).split() for name in ("mini", *names)}
            assert seen == {"mini": ["MINI"] * 2, "one": ["ONE."] * 2, "two": ["base"] * 2, "three": ["base"] * 2}
            are_machines_of_their_own(suspended, ["mini", *names])
            together = sum(pss(suspended.qemu(name)) for name in names)
            assert together < 3 * pss(suspended.qemu("mini")), "they share memory"
            a_fork_is_forked_suspended_and_deleted(suspended, boot)
        finally:
            for name in (*names, "four"):
                suspended.end(name)
    assert suspended.vm().config().disk_format == "qcow2"
    for name in ("mini", *names):
        check(suspended.vm(name).path)
    assert os.listdir(suspended.home / "tmp") == []


def are_machines_of_their_own(lab: Lab, names: list[str]) -> None:
    ask = "cat /sys/class/net/eth0/address; hostname; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '"
    told = {name: root(lab, ask, name).split() for name in names}
    for what in range(3):
        assert len({answers[what] for answers in told.values()}) == len(names), told
    for name in names:
        assert told[name][0] == lab.vm(name).config().mac_address
        assert told[name][1] == name
    addresses = {lab.done("ip", name, "--wait", "10") for name in names}
    assert len(addresses) == len(names)


def a_fork_is_forked_suspended_and_deleted(lab: Lab, boot: str) -> None:
    lab.done("fork", "one", "four", timeout=100)
    assert root(lab, f"{BOOT_ID}; {SEEN}", "four").split() == [boot, "ONE.", "ONE."]
    lab.done("suspend", "two")
    assert lab.done("wait", "two").startswith("suspended")
    lab.done("delete", "two")
    lab.done("stop", "four")
    with lab.running("four"):
        assert root(lab, "hostname", "four") == "mini", "it has booted anew"
    lab.done("clone", "mini", "two")


def test_a_fork_that_cannot_start_leaves_nothing_and_stops_no_other(suspended: Lab) -> None:
    with leaving_nobody():
        assert suspended.tart("fork", "mini", "x").code == 2
        with suspended.running():
            try:
                in_the_way = suspended.home / "vms" / "blocked"
                in_the_way.mkdir()
                refused = suspended.tart("fork", "mini", "blocked")
                assert (refused.code, "already exists" in refused.err) == (1, True)
                in_the_way.rmdir()
                assert suspended.done("fork", "mini", "fine") == "fine\n"
                before = suspended.supervisor("fine")
                kill(suspended.supervisor("mini"), signal.SIGKILL)
                until(lambda: not suspended.vm("mini").supervisor(), "its end")
                assert suspended.supervisor("fine") == before
                assert root(suspended, "hostname", "fine") == "fine", "a fork outlives its source"
            finally:
                suspended.end("fine")
    assert sorted(os.listdir(suspended.home / "vms")) == ["fine", "mini"]
    assert os.listdir(suspended.home / "tmp") == []


def test_where_no_agent_is_none_is_waited_for(suspended: Lab) -> None:
    last = "p=$(pidof qemu-ga); kill -9 $(grep PPid /proc/$p/status | cut -f 2) $p"
    with leaving_nobody(), suspended.running():
        try:
            root(suspended, f"(sleep 1; {last}) > /dev/null 2>&1 < /dev/null &")
            until(lambda: suspended.tart("ip", "mini", "--resolver", "agent").code != 0, "the end of its agent")
            assert suspended.done("fork", "mini", "one") == "one\n"
            said = suspended.vm("one").run_log_path.read_text()
            assert "not told that it is another machine: no guest agent answers" in said, "not: in time"
        finally:
            suspended.end("one")


def test_a_fork_that_is_interrupted_is_a_running_vm_or_none(suspended: Lab) -> None:
    vms = suspended.home / "vms"
    with leaving_nobody(), suspended.running():
        for step in range(6):
            with suspended.started("fork", "mini", f"one-{step}", f"two-{step}") as forking:
                until(lambda: len(os.listdir(vms)) > 1 or forking.poll() is not None, "a first fork")
                time.sleep(step * 0.1)
                forking.send_signal(signal.SIGINT)
                forking.wait(20)
            made = [name for name in os.listdir(vms) if name != "mini"]
            assert [suspended.state(name) for name in made] == ["running"] * len(made), step
            for name in made:
                suspended.end(name)
                suspended.done("delete", name)
        assert suspended.done("exec", "mini", "true") == ""
    assert os.listdir(suspended.home / "tmp") == []


def test_what_only_one_machine_can_have_is_refused(suspended: Lab, tmp_path: Path) -> None:
    suspended.done("stop", "mini")
    suspended.vm().state_path.unlink(missing_ok=True)
    disk = tmp_path / "extra.img"
    disk.write_bytes(bytes(MIB))
    with suspended.started("run", "mini", "--no-graphics", f"--disk={disk}"):
        suspended.supervisor()
        until(lambda: suspended.tart("fork", "mini", "x").code == 1, "the refusal")
        refused = suspended.tart("fork", "mini", "x")
        assert "has a --disk that it may write to" in refused.err
        suspended.done("stop", "mini")


def test_a_frozen_copy_has_the_data_and_cannot_be_changed() -> None:
    source, target = memory_file("a", 8 * MIB), memory_file("b", 8 * MIB)
    assert source is not None
    assert target is not None
    try:
        os.pwrite(source, b"first", 0)
        os.pwrite(source, b"later", 5 * MIB)
        assert frozen_copy(source, target) <= 4 * 4096
        assert (os.pread(target, 5, 0), os.pread(target, 5, 5 * MIB)) == (b"first", b"later")
        assert os.fstat(target).st_blocks * 512 < MIB
        for change in (lambda: os.pwrite(target, b"x", 0), lambda: os.ftruncate(target, 1)):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(source)
        os.close(target)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_forks_of_a_whole_system_are_machines_of_their_own(suspended_debian: Lab) -> None:
    """With our own agent, systemd's network client, and everything else that a distribution keeps about a machine."""
    debian, names = suspended_debian, ["debian", "left", "right"]
    with leaving_nobody(), debian.running("debian"):
        try:
            root(debian, "echo base > /var/tmp/mark; sync", "debian")
            assert debian.done("fork", "debian", "left", "right", timeout=300).split() == names[1:]
            root(debian, "echo left > /var/tmp/mark; sync", "left")
            assert [root(debian, "cat /var/tmp/mark", name) for name in names] == ["base", "left", "base"]
            ask = (
                "cat /sys/class/net/e*/address /etc/machine-id; hostname; "
                "head -c 16 /dev/urandom | md5sum | cut -c 1-32"
            )
            told = [root(debian, ask, name).split() for name in names]
            for what in range(4):
                assert len({answers[what] for answers in told}) == len(names), told
            key = "cat /etc/ssh/ssh_host_ed25519_key.pub"
            until(lambda: len({root(debian, key, name) for name in names}) == len(names), "keys of their own", 120)
            assert [answers[2] for answers in told[1:]] == names[1:]
            assert len({debian.done("ip", name, "--wait", "60", timeout=90) for name in names}) == len(names)
        finally:
            for name in names[1:]:
                debian.end(name)
