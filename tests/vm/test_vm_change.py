"""`tart set`: what it changes, what it refuses, and that a refusal or a death changes nothing by halves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from command import Called, snapshot, tart
from disk_files import check, guest_sees, run
from killed import deaths
from tartlet.disk.chain import chain_of
from tartlet.host import scratch
from tartlet.host.paths import Home
from tartlet.units import GB, MIB
from tartlet.vm.stored import config_file
from tartlet.vm.stored.change import Changes, change
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import VmConfig
from tartlet.vm.stored.store import VmStore
from vm_lab import Lab, leaving_nobody, until

SIZE = 3 * MIB


@pytest.fixture
def vm(tmp_path: Path) -> VmFolder:
    """A stopped VM with a small raw disk."""
    store = VmStore(Home(tmp_path / "home").prepared())
    with store.work_folder() as work:
        config_file.create(work / "config.json", VmConfig(arch="amd64"))
        (work / "nvram.bin").write_bytes(b"variables")
        (work / "disk.img").write_bytes(b"old!" * (SIZE // 4))
        return store.install(work, "vm")


def run_would_show(vm: VmFolder, flat: Path) -> bytes:
    """What a guest would see if the VM were run now: the disk in the format that the VM says it has."""
    kind = chain_of(vm.path, vm.config().disk_format).top.format
    run("qemu-img", "convert", "-f", str(kind), "-O", "raw", vm.disk_path, flat)
    return flat.read_bytes()


def home_of(vm: VmFolder) -> Path:
    return vm.path.parent.parent


def set_(vm: VmFolder, *words: str) -> Called:
    return tart(home_of(vm), "set", vm.name, *words)


def saved(vm: VmFolder) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(vm.config_path.read_bytes()))


@pytest.fixture(params=["raw", "qcow2"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Another disk, in either format."""
    raw = tmp_path / "image.raw"
    raw.write_bytes(b"new." * (SIZE // 2))
    if request.param == "raw":
        return raw
    made = tmp_path / "image.qcow2"
    run("qemu-img", "convert", "-O", "qcow2", raw, made)
    return made


def test_each_option_changes_its_own_key_and_nothing_else(vm: VmFolder) -> None:
    document = saved(vm) | {"unknown": [1]}
    vm.config_path.write_text(json.dumps(document))
    inode = vm.config_path.stat().st_ino
    for words, changed in (
        ((), {}),
        (("--cpu", "2"), {"cpuCount": 2}),
        (("--memory", "512"), {"memorySize": 512 * MIB}),
        (("--display", "800x600px"), {"display": {"width": 800, "height": 600, "unit": "px"}}),
        (("--display", "x0"), {"display": {"width": 800, "height": 600}}),
        (("--display-refit",), {"displayRefit": True}),
        (("--cpu", "3"), {"cpuCount": 3}),
        (("--no-display-refit",), {"displayRefit": False}),
        (("--random-serial",), {}),
    ):
        assert set_(vm, *words) == Called(0, "", ""), words
        document |= changed
        assert saved(vm) == document, words
    assert vm.config_path.stat().st_ino == inode
    assert set_(vm, "--random-mac").code == 0
    assert saved(vm)["macAddress"] != document["macAddress"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--cpu", "0"), 1, ("CPU count", "1")),
        (("--memory", "0"), 1, ("memory", "MB")),
        (("--cpu", "65536"), 64, ("65536",)),
        (("--disk", "nowhere.img", "--cpu", "2"), 1, ("nowhere.img",)),
        (("--disk-size", "0", "--cpu", "2", "--random-mac"), 1, ("3 MB", "0")),
    ],
)
def test_a_refusal_changes_nothing(vm: VmFolder, words: tuple[str, ...], code: int, told: tuple[str, ...]) -> None:
    before = snapshot(vm.path)
    refused = set_(vm, *words)
    assert (refused.code, refused.out) == (code, "")
    for word in told:
        assert word in refused.err
    assert snapshot(vm.path) == before
    assert os.listdir(home_of(vm) / "tmp") == []


def test_a_shrink_names_both_sizes_and_an_equal_size_is_nothing(vm: VmFolder) -> None:
    os.truncate(vm.disk_path, 2 * GB)
    before = snapshot(vm.path)
    refused = set_(vm, "--disk-size", "1", "--cpu", "7")
    assert refused.code == 1
    assert "2 GB" in refused.err
    assert "1 GB" in refused.err
    assert snapshot(vm.path) == before
    assert set_(vm, "--disk-size", "2") == Called(0, "", "")
    assert set_(vm, "--disk-size", "3", "--cpu", "7") == Called(0, "", "")
    assert vm.disk_path.stat().st_size == 3 * GB
    assert vm.disk_path.stat().st_blocks * 512 < 8 * MIB
    assert saved(vm)["cpuCount"] == 7


def test_a_suspended_vms_disk_is_left_alone_unless_the_state_goes(vm: VmFolder, image: Path) -> None:
    vm.state_path.write_bytes(b"saved machine")
    before = snapshot(vm.path)
    for words in (("--disk", str(image)), ("--disk-size", "1", "--cpu", "2")):
        refused = set_(vm, *words)
        assert refused.code == 1
        assert "is suspended" in refused.err
        assert "tart stop" in refused.err
        assert snapshot(vm.path) == before
    assert set_(vm, "--cpu", "2").code == 0
    assert vm.state_path.exists()
    assert set_(vm, "--disk-size", "1", "--random-mac").code == 0
    assert not vm.state_path.exists()
    assert vm.disk_path.stat().st_size == GB


def test_a_disk_is_replaced_and_grown_in_one_go_back_and_forth(vm: VmFolder, image: Path) -> None:
    again = home_of(vm).with_name("again.raw")
    again.write_bytes(b"3rd." * MIB)
    for source in (image, again):
        assert set_(vm, "--disk", str(source), "--disk-size", "1") == Called(0, "", "")
        kind = source.suffix[1:]
        assert saved(vm)["diskFormat"] == kind
        assert vm.disk_path.stat().st_size < 2 * GB
        content = home_of(vm).with_name("content")
        run("qemu-img", "convert", "-f", kind, "-O", "raw", vm.disk_path, content)
        with content.open("rb") as file:
            assert file.read(4) == (b"new." if source is image else b"3rd.")
        assert content.stat().st_size == GB
        content.unlink()
    assert sorted(os.listdir(vm.path)) == ["config.json", "disk.img", "nvram.bin"]
    refused = set_(vm, "--disk", str(image), "--disk-size", "0", "--cpu", "1")
    assert refused.code == 1
    assert saved(vm)["diskFormat"] == "raw"
    assert saved(vm)["cpuCount"] == 4


def test_a_replacement_that_dies_leaves_one_disk_or_the_other(vm: VmFolder, tmp_path: Path) -> None:
    """Raw to qcow2 and back, killed at every point: the VM's disk reads as one of the two, by the VM's own reading."""
    raw, qcow2 = tmp_path / "image.raw", tmp_path / "image.qcow2"
    raw.write_bytes(b"raw." * (SIZE // 4))
    run("qemu-img", "convert", "-O", "qcow2", raw, qcow2)
    store = VmStore(Home(home_of(vm)))
    spare = tmp_path / "spare"
    for image in (qcow2, raw):
        shutil.rmtree(spare, ignore_errors=True)
        subprocess.run(["cp", "-a", vm.path, spare], check=True)
        old, new = guest_sees(vm.path), raw.read_bytes()
        seen = set[bytes]()
        for point in deaths(lambda path=image: change(store, "vm", Changes(cpu=2, disk=path))):  # type: ignore[misc]
            content = run_would_show(vm, tmp_path / "flat")
            assert content in (old, new), f"after point {point}"
            seen.add(content)
            assert vm.config().cpu_count in (2, 4)
            scratch.collect(store.home.tmp)
            assert os.listdir(store.home.tmp) == []
            shutil.rmtree(vm.path)
            subprocess.run(["cp", "-a", spare, vm.path], check=True)
        assert seen == {old, new}
        assert guest_sees(vm.path) == new
        assert vm.config().disk_format == image.suffix[1:]


def test_a_running_vm_sees_what_it_can_of_a_change(suspended: Lab) -> None:
    def total() -> int:
        return int(suspended.sh("awk '/MemTotal/ { print $2 }' /proc/meminfo"))

    with leaving_nobody():
        with suspended.running():
            before = total()
            said = suspended.tart("set", "mini", "--disk-size", "1", "--memory", "160", "--cpu", "2")
            assert (said.code, said.err) == (0, "CPUs: from the next start on\n")
            until(lambda: total() < before - (80 << 10), "the balloon")
            assert int(suspended.sh("cat /sys/block/vda/size")) * 512 == GB
            config = suspended.vm().config()
            assert (config.cpu_count, config.memory_size) == (2, 160 << 20)
            more = suspended.tart("set", "mini", "--memory", "512", "--cpu", "1")
            assert "memory: from the next start on; it was started with 256 MB" in more.err
            until(lambda: total() == before, "the balloon's end")
            assert suspended.tart("set", "mini", "--disk-size", "0").code == 1
            refused = suspended.tart("set", "mini", "--disk", str(suspended.vm().disk_path), "--cpu", "3")
            assert (refused.code, "is running" in refused.err) == (1, True)
            assert suspended.vm().config().cpu_count == 1
            suspended.done("set", "mini", "--memory", "256")
            suspended.done("suspend", "mini")
            assert suspended.done("wait", "mini").startswith("suspended")
        with suspended.running():
            assert int(suspended.sh("cat /sys/block/vda/size")) * 512 == GB
        check(suspended.vm().path)


def test_a_running_vms_raw_disk_grows_and_keeps_its_lock(stopped: Lab) -> None:
    with leaving_nobody():
        stopped.done("run", "mini", "--no-graphics", "--detach")
        stopped.done("set", "mini", "--disk-size", "1", "--cpu", "2")
        assert stopped.vm().disk_path.stat().st_size == GB
        assert stopped.state() == "running"
        stopped.done("stop", "mini")
        assert stopped.vm().config().cpu_count == 2
