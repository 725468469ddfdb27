"""The store: names, states, and that a VM is always wholly there or wholly not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from killed import deaths
from tartlet.errors import FileTrouble, InvalidArgument
from tartlet.host import access_time, scratch
from tartlet.host.files import write_in_place
from tartlet.host.locks import try_process_lock
from tartlet.host.paths import Home
from tartlet.vm.stored import config_file
from tartlet.vm.stored.folder import Layout, VmFolder, VmIncomplete
from tartlet.vm.stored.model import VmConfig, VmState
from tartlet.vm.stored.store import VmMissing, VmRunning, VmStore


@pytest.fixture
def store(tmp_path: Path) -> VmStore:
    return VmStore(Home(tmp_path / "home").prepared())


def filled(folder: Path, mark: bytes = b"disk") -> Path:
    config_file.create(folder / "config.json", VmConfig(arch="amd64"))
    (folder / "nvram.bin").write_bytes(b"variables")
    (folder / "disk.img").write_bytes(mark)
    return folder


def added(store: VmStore, name: str, mark: bytes = b"disk") -> VmFolder:
    with store.work_folder() as work:
        return store.install(filled(work, mark), name)


@contextmanager
def another_process_holding(path: Path) -> Generator[int]:
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder.pid
        holder.stdin.close()


def test_an_installed_vm_is_listed_and_its_work_folder_is_gone(store: VmStore) -> None:
    added(store, "b")
    added(store, "a")
    assert store.names() == ["a", "b"]
    assert os.listdir(store.home.tmp) == []


def test_a_second_vm_of_a_name_replaces_the_first(store: VmStore) -> None:
    added(store, "vm", b"old")
    vm = added(store, "vm", b"new")
    assert vm.disk_path.read_bytes() == b"new"
    assert os.listdir(store.home.tmp) == []


def test_a_running_vm_is_neither_replaced_nor_deleted(store: VmStore) -> None:
    vm = added(store, "vm", b"old")
    with another_process_holding(vm.config_path) as pid:
        assert vm.supervisor() == pid
        assert vm.state() is VmState.RUNNING
        with pytest.raises(VmRunning, match='"vm" is running'):
            added(store, "vm", b"new")
        with pytest.raises(VmRunning):
            store.delete("vm")
    assert vm.disk_path.read_bytes() == b"old"
    assert vm.state() is VmState.STOPPED
    store.delete("vm")
    assert store.names() == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "x\0y", "n" * 256])
def test_names_that_are_none_are_refused_before_anything_is_made(store: VmStore, name: str) -> None:
    with pytest.raises(InvalidArgument):
        added(store, name)
    assert not store.home.vms.exists()
    with pytest.raises(VmMissing):
        store.open(name)


def test_a_folder_without_the_files_of_a_vm_is_incomplete(store: VmStore) -> None:
    added(store, "vm").nvram_path.unlink()
    assert store.names() == []
    with pytest.raises(VmIncomplete, match=r"config\.json.*disk\.img.*nvram\.bin.*overlay\.asif"):
        store.open("vm")


@pytest.mark.parametrize(
    ("disk", "manifest", "overlay", "layout"),
    [
        (True, True, False, Layout.FLAT),
        (True, False, False, Layout.FLAT),
        (False, True, True, Layout.STACKED_VM),
        (False, True, False, Layout.STACKED_IMAGE),
        (True, True, True, Layout.NONE),
        (True, False, True, Layout.NONE),
        (False, False, True, Layout.NONE),
        (False, False, False, Layout.NONE),
    ],
)
def test_which_files_make_which_layout(
    tmp_path: Path, *, disk: bool, manifest: bool, overlay: bool, layout: Layout
) -> None:
    present = {"config.json": True, "nvram.bin": True, "disk.img": disk}
    for name, there in {**present, "manifest.json": manifest, "overlay.asif": overlay}.items():
        if there:
            (tmp_path / name).touch()
    assert VmFolder("x", tmp_path).layout() is layout


def test_rename_moves_a_vm_and_never_onto_another(store: VmStore) -> None:
    added(store, "one", b"1")
    added(store, "two", b"2")
    with pytest.raises(InvalidArgument, match='"two" already exists'):
        store.rename("one", "two")
    with pytest.raises(InvalidArgument, match='non-existent VM: "nope"'):
        store.rename("nope", "three")
    with pytest.raises(InvalidArgument):
        store.rename("one", "a/b")
    assert store.rename("one", "three").disk_path.read_bytes() == b"1"
    assert store.names() == ["three", "two"]


def test_rename_does_not_swallow_a_folder_that_is_no_vm(store: VmStore) -> None:
    added(store, "one")
    (store.home.vms / "mine").mkdir()
    (store.home.vms / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(FileTrouble, match="mine"):
        store.rename("one", "mine")
    assert (store.home.vms / "mine" / "notes.txt").read_text() == "keep"
    assert store.names() == ["one"]


def test_opening_marks_the_vm_as_used_and_listing_does_not(store: VmStore) -> None:
    vm = added(store, "vm")
    access_time.mark(vm.path, 1_222_730_100)
    assert access_time.of(vm.path) == 1_222_730_100
    store.names()
    vm.state()
    assert access_time.of(vm.path) == 1_222_730_100
    store.open("vm")
    assert access_time.of(vm.path) > 1_700_000_000
    assert vm.path.stat().st_mtime == 1_222_730_100


def test_a_vm_is_wholly_old_or_wholly_new_whenever_its_replacement_dies(store: VmStore) -> None:
    added(store, "vm", b"old")
    seen = set[bytes]()
    for _ in deaths(lambda: added(store, "vm", b"new")):
        vm = store.open("vm")
        seen.add(vm.disk_path.read_bytes())
        assert vm.config().arch == "amd64"
        assert store.names() == ["vm"]
        scratch.collect(store.home.tmp)
        assert os.listdir(store.home.tmp) == []
    assert seen == {b"old", b"new"}


def test_a_deletion_that_dies_leaves_the_vm_or_nothing(store: VmStore) -> None:
    added(store, "other")
    outcomes = set[bool]()

    def delete_one() -> None:
        store.delete("vm")

    added(store, "vm")
    for _ in deaths(delete_one):
        there = store.folder("vm").path.exists()
        outcomes.add(there)
        assert store.names() == (["other", "vm"] if there else ["other"])
        scratch.collect(store.home.tmp)
        assert os.listdir(store.home.tmp) == []
        if not there:
            added(store, "vm")
    assert outcomes == {True, False}


def test_a_rename_that_dies_leaves_the_vm_under_one_name(store: VmStore) -> None:
    added(store, "one", b"1")
    outcomes = set[str]()
    for _ in deaths(lambda: store.rename("one", "two")):
        (name,) = store.names()
        outcomes.add(name)
        assert store.open(name).disk_path.read_bytes() == b"1"
        if name == "two":
            store.rename("two", "one")
    assert outcomes == {"one", "two"}


def test_a_config_is_wholly_old_or_wholly_new_whenever_its_rewrite_dies(store: VmStore) -> None:
    vm = added(store, "vm")
    long = replace(vm.config(), cpu_count=1000, display_refit=False)
    short = replace(vm.config(), cpu_count=2, display_refit=None)
    inode = vm.config_path.stat().st_ino
    for before, after in ((long, short), (short, long)):
        config_file.write(vm.config_path, before)
        for _ in deaths(lambda new=after: config_file.write(vm.config_path, new)):  # type: ignore[misc]
            assert vm.config() in (before, after)
            config_file.write(vm.config_path, before)
    assert vm.config_path.stat().st_ino == inode


def test_many_processes_at_once_leave_one_whole_vm(store: VmStore) -> None:
    children: list[int] = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            failed = 1
            try:
                for _ in range(10):
                    added(store, "vm", b"%d" % number)
                    scratch.collect(store.home.tmp)
                failed = 0
            except VmRunning:  # another replaces it at this moment, which looks like running
                failed = 0
            finally:
                os._exit(failed)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8
    assert store.names() == ["vm"]
    assert store.open("vm").disk_path.read_bytes() in [b"%d" % number for number in range(8)]
    scratch.collect(store.home.tmp)
    assert os.listdir(store.home.tmp) == []


def test_the_collector_spares_what_is_held_and_takes_the_rest(store: VmStore) -> None:
    (store.home.tmp / "left-over").mkdir()
    (store.home.tmp / "left-over" / "file").touch()
    (store.home.tmp / "set-disk-1").touch()
    (store.home.tmp / "dangling").symlink_to("nowhere")
    with store.work_folder() as work:
        scratch.collect(store.home.tmp)
        assert os.listdir(store.home.tmp) == [work.name]
    assert os.listdir(store.home.tmp) == []


def test_collectors_in_parallel_do_not_stumble_over_each_other(store: VmStore) -> None:
    for number in range(50):
        folder = store.home.tmp / f"entry-{number}"
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "file").touch()
    failures: list[BaseException] = []

    def collect() -> None:
        try:
            scratch.collect(store.home.tmp)
        except BaseException as exc:  # noqa: BLE001 - handed to the assertion below
            failures.append(exc)

    threads = [threading.Thread(target=collect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert os.listdir(store.home.tmp) == []


def test_rewriting_a_config_keeps_the_lock_of_the_running_vm(store: VmStore) -> None:
    vm = added(store, "vm")
    with another_process_holding(vm.config_path) as pid:
        store.save_config(vm, vm.config(), replace(vm.config(), cpu_count=7))
        assert vm.supervisor() == pid
    assert vm.config().cpu_count == 7


def test_a_new_mac_ends_a_suspension_and_nothing_else_does(store: VmStore) -> None:
    vm = added(store, "vm")
    vm.state_path.touch()
    config = vm.config()
    store.save_config(vm, config, replace(config, cpu_count=1))
    assert vm.state() is VmState.SUSPENDED
    store.save_config(vm, config, config.with_new_mac())
    assert vm.state() is VmState.STOPPED


def test_a_mac_is_found_whatever_its_spelling(store: VmStore) -> None:
    vm = added(store, "vm")
    config_file.write(vm.config_path, replace(vm.config(), mac_address="0a:01:02:03:04:05"))
    found = store.same_mac("A:1:2:3:4:5")
    assert found is not None
    assert found.name == "vm"
    assert store.same_mac("A:1:2:3:4:5", besides="vm") is None
    assert store.same_mac("A:1:2:3:4:5", only_running=True) is None


def test_our_own_lock_is_not_mistaken_for_another_process(store: VmStore) -> None:
    vm = added(store, "vm")
    descriptor = try_process_lock(vm.config_path)
    assert descriptor is not None
    with closing(os.fdopen(descriptor, "rb")):
        assert vm.supervisor() == 0


def test_a_home_that_cannot_be_made_names_the_component(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileTrouble, match=r"file.*not a folder"):
        Home(tmp_path / "file" / "deep" / "home").prepared()


def test_the_cache_may_be_a_link_to_another_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").symlink_to(tmp_path / "elsewhere")
    assert Home(tmp_path / "home").prepared().cache.is_symlink()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise


@pytest.mark.needs_root
def test_a_full_disk_keeps_the_old_config(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], check=True)
    try:
        config = mount / "config.json"
        config_file.create(config, VmConfig(arch="amd64"))
        before = config_file.read(config)
        fill(mount / "filler")
        with pytest.raises(OSError, match="No space left"):
            write_in_place(config, b'{"x":"' + b"y" * 60000 + b'"}')
        assert config_file.read(config) == before
    finally:
        subprocess.run(["umount", mount], check=True)
