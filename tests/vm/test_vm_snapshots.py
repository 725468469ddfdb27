"""A VM returns to its snapshots whole, whatever it runs on and whatever was killed on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest

import tartlet
from disk_files import check, guest_sees, guest_writes, mounted
from filled_home import filled
from killed import deaths
from tartlet.disk.chain import chain_of
from tartlet.disk.model import allocated
from tartlet.host import scratch
from tartlet.units import MIB
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.store import VmRunning, VmStore
from vm_lab import BACKGROUND, Lab, kill, leaving_nobody, until

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
PARTITION = 63 * MIB
"""Where the tiny guest's second partition begins."""
READ = "dd if=/dev/vda2 bs=1M count=1 iflag=direct 2>/dev/null | head -c 16"


def write(text: str) -> str:
    """Three megabytes of `text` and a blank on the second partition, past every cache, and `text` in memory."""
    return (
        f"echo {text} > /dev/shm/mark; yes {text} | tr '\\n' ' ' | head -c 3145728 > /tmp/d; "
        "dd if=/tmp/d of=/dev/vda2 bs=1M oflag=direct conv=fsync 2>/dev/null; rm /tmp/d"
    )


def seen(lab: Lab, name: str = "mini") -> tuple[str, str]:
    """What is in memory and what is on the disk."""
    memory, disk = root(lab, f"cat /dev/shm/mark; {READ}", name).split("\n")
    return memory, disk.split()[0]


def root(lab: Lab, script: str, name: str = "mini") -> str:
    """What a script prints in the guest that may use its disks."""
    return lab.sh(script, name, user="root")


def test_a_running_vm_on_an_overlay_returns_to_its_memory_and_disk(suspended: Lab) -> None:
    returns(suspended)


def test_a_running_vm_on_a_raw_disk_returns_to_its_memory_and_disk(stopped: Lab) -> None:
    returns(stopped)


def returns(lab: Lab) -> None:
    with leaving_nobody(), lab.running():
        boot = root(lab, f"{BOOT_ID}; {write('one')}")
        assert lab.done("snapshot", "create", "mini", "first") == "first\n"
        assert seen(lab) == ("one", "one")
        root(lab, write("two"))
        second = lab.done("snapshot", "create", "mini").strip()
        root(lab, write("three"))
        assert [row["Tag"] for row in listed(lab)] == ["first", second]
        assert all(row["Memory"] for row in listed(lab))
        assert json.loads(lab.done("get", "mini", "--format", "json"))["Snapshots"] == ["first", second]
        assert lab.done("get", "mini").rstrip().endswith(f"first,{second}")
        refused = lab.tart("snapshot", "restore", "mini", "first")
        assert (refused.code, refused.err.splitlines()[0]) == (1, 'VM "mini" is running')
        assert lab.tart("snapshot", "create", "mini", "first").code == 1
        assert seen(lab) == ("three", "three")
        lab.done("clone", "mini", "copy")
        assert not lab.vm("copy").path.joinpath("snapshots").exists()
    assert lab.vm().config().disk_format == str(chain_of(lab.vm().path).top.format)
    for tag, text in (("first", "one"), (second, "two"), ("first", "one")):
        lab.done("snapshot", "restore", "mini", tag)
        assert lab.state() == "suspended"
        check(lab.vm().path)
        with lab.running():
            assert seen(lab) == (text, text)
            assert lab.sh(BOOT_ID) == boot
            root(lab, write("four"))
    lab.done("snapshot", "delete", "mini", "first")
    assert lab.tart("snapshot", "restore", "mini", "first").code == 2
    assert [row["Tag"] for row in listed(lab)] == [second]
    lab.done("delete", "mini")
    assert os.listdir(lab.home / "tmp") == []


def listed(lab: Lab) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(lab.done("snapshot", "list", "mini", "--format", "json"))
    return rows


def test_the_supervisor_dies_while_a_snapshot_is_made(suspended: Lab, tmp_path: Path) -> None:
    """Whenever it is: the guest's disk is whole, and the snapshot is there and can be returned to, or is not there."""
    outcomes: list[bool] = []
    for step in range(5):
        lab = suspended.copied(tmp_path / f"at-{step}")
        with leaving_nobody():
            lab.done("run", "mini", *BACKGROUND)
            root(lab, write("kept"))
            with lab.started("snapshot", "create", "mini", "one") as taking:
                until(lambda home=lab: any((home.home / "tmp").iterdir()), "a beginning")  # type: ignore[misc]
                time.sleep(step * 0.05)
                kill(lab.supervisor(), signal.SIGKILL)
                until(lambda home=lab: not home.vm().supervisor(), "its end")  # type: ignore[misc]
                taking.wait(20)
        check(lab.vm().path)
        assert guest_sees(lab.vm().path, tmp_path)[PARTITION:].startswith(b"kept")
        outcomes.append(bool(listed(lab)))
        if outcomes[-1]:
            lab.done("snapshot", "restore", "mini")
            with lab.running():
                assert seen(lab) == ("kept", "kept")
        assert list((lab.home / "tmp").iterdir()) == []
        shutil.rmtree(lab.home)
    assert not outcomes[0]


def create(store: VmStore, tag: str) -> None:
    anyio.run(tartlet.create_snapshot, store, "source", tag)


@pytest.mark.parametrize("overlay", [False, True], ids=["raw", "overlay"])
def test_a_stopped_vm_returns_to_its_disk_and_configuration(tmp_path: Path, *, overlay: bool) -> None:
    store = filled(tmp_path / "home", overlay=overlay)
    vm = store.folder("source")
    before, config = guest_sees(vm.path), vm.config()
    create(store, "one")
    assert guest_sees(vm.path) == before
    taken = sum(allocated(path) for path in (vm.path / "snapshots" / "one").iterdir() if path.stat().st_nlink == 1)
    assert taken < 256 << 10, "blocks are shared"
    guest_writes(vm.path, MIB, MIB, 9)
    changed = guest_sees(vm.path)
    vm.nvram_path.write_bytes(b"other variables")
    tartlet.change(store, "source", tartlet.Changes(cpu=1, random_mac=True))
    create(store, "two")
    for tag, disk in (("one", before), ("two", changed), ("one", before)):
        assert tartlet.restore_snapshot(store, "source", tag).tag == tag
        assert guest_sees(vm.path) == disk
        assert (vm.path / "run.log").read_text() == "{}"
        guest_writes(vm.path, 3 * MIB, MIB, 1)
        assert [one.tag for one in tartlet.snapshots(vm)] == ["one", "two"]
    assert vm.nvram_path.read_bytes() == b"variables"
    assert (vm.config().cpu_count, vm.config().mac_address) == (config.cpu_count, config.mac_address)
    check(vm.path)
    tartlet.delete_snapshot(store, "source", "one")
    tartlet.delete_snapshot(store, "source", "two")
    assert tartlet.snapshots(vm) == []
    with pytest.raises(tartlet.SnapshotMissing):
        tartlet.restore_snapshot(store, "source")


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    with mounted(tmp_path_factory.mktemp("xfs") / "xfs.img", 1200 * MIB, "mkfs.xfs", "-q", "-m", "reflink=1") as point:
        yield point


@pytest.mark.needs_root
def test_snapshots_on_a_file_system_with_reflinks(xfs: Path) -> None:
    store = filled(xfs / "home")
    vm = store.folder("source")
    before = guest_sees(vm.path)
    create(store, "one")
    assert not list(vm.path.glob("base*.img"))
    guest_writes(vm.path, MIB, MIB, 9)
    tartlet.restore_snapshot(store, "source", "one")
    assert guest_sees(vm.path) == before


@pytest.mark.needs_root
def test_a_running_vm_on_a_file_system_with_reflinks(xfs: Path, suspended: Lab) -> None:
    shutil.copytree(suspended.home, xfs / "lab", ignore=shutil.ignore_patterns("*.sock"))
    lab = Lab(home=xfs / "lab", network=suspended.network)
    with leaving_nobody(), lab.running():
        root(lab, write("one"))
        lab.done("snapshot", "create", "mini", "first")
        root(lab, write("two"))
    lab.done("snapshot", "restore", "mini", "first")
    with lab.running():
        assert seen(lab) == ("one", "one")


def killed_at_every_point(tmp_path: Path, *, restore: bool) -> Generator[tuple[VmStore, VmFolder, bytes, bytes]]:
    """A home after each death, with what its VM's guest saw in the snapshot and at last."""
    original = filled(tmp_path / "original", overlay=True)
    create(original, "old")
    old = guest_sees(original.folder("source").path)
    guest_writes(original.folder("source").path, MIB, 3 * MIB, 9)
    last = guest_sees(original.folder("source").path)
    home = tmp_path / "home"

    def fresh() -> VmStore:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(original.home.root, home, copy_function=os.link, ignore=shutil.ignore_patterns("*.sock"))
        for name in ("disk.img", "config.json"):
            for path in home.glob(f"vms/source/**/{name}"):
                content = path.read_bytes()
                path.unlink()
                path.write_bytes(content)
        return VmStore(tartlet.Home(home))

    store = fresh()
    work = (lambda: tartlet.restore_snapshot(store, "source", "old")) if restore else (lambda: create(store, "new"))
    for _ in deaths(work):
        scratch.collect(home / "tmp")
        yield store, store.folder("source"), old, last
        fresh()


def test_restoring_killed_at_any_point_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    outcomes = set[bool]()
    for point, (store, vm, old, last) in enumerate(killed_at_every_point(tmp_path, restore=True)):
        content = guest_sees(vm.path, tmp_path)
        assert content in (old, last)
        outcomes.add(content == old)
        assert [one.tag for one in tartlet.snapshots(vm)] == ["old"]
        if point % 4 == 0:
            tartlet.restore_snapshot(store, "source", "old")
            assert guest_sees(vm.path, tmp_path) == old
        assert os.listdir(store.home.tmp) == []
    assert outcomes == {False, True}


def test_making_one_killed_at_any_point_leaves_it_whole_or_not_at_all(tmp_path: Path) -> None:
    outcomes = set[int]()
    for store, vm, _, last in killed_at_every_point(tmp_path, restore=False):
        assert guest_sees(vm.path, tmp_path) == last
        found = [one.tag for one in tartlet.snapshots(vm)]
        outcomes.add(len(found))
        if "new" not in found:
            create(store, "new")
        tartlet.restore_snapshot(store, "source", "new")
        assert guest_sees(vm.path, tmp_path) == last
    assert outcomes == {1, 2}


@pytest.mark.parametrize("tag", ["", ".", "..", "a/b", "-x", ".hidden", "x" * 300])
def test_a_bad_tag_is_refused(tmp_path: Path, tag: str) -> None:
    store = filled(tmp_path / "home")
    with pytest.raises(tartlet.InvalidArgument):
        create(store, tag)


def test_nothing_is_restored_under_a_running_vm(suspended: Lab) -> None:
    suspended.done("snapshot", "create", "mini", "one")
    with suspended.running(), pytest.raises(VmRunning):
        tartlet.restore_snapshot(VmStore(tartlet.Home(suspended.home)), "mini", "one")
