"""A clone is wholly there or not at all, is its own machine, and leaves its source's guest everything."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command import tart
from disk_files import check, guest_sees, guest_writes
from filled_home import MAC, filled
from killed import deaths
from tartlet.host import scratch
from tartlet.host.paths import Home
from tartlet.units import MIB
from tartlet.vm.stored import clone as cloning
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.store import VmStore


def names(vm: VmFolder) -> set[str]:
    return set(os.listdir(vm.path))


@pytest.mark.parametrize("suspended", [False, True], ids=["stopped", "suspended"])
@pytest.mark.parametrize("overlay", [False, True], ids=["raw", "overlay"])
def test_what_a_clone_has(tmp_path: Path, *, overlay: bool, suspended: bool) -> None:
    store = filled(tmp_path / "home", overlay=overlay)
    source = store.folder("source")
    if suspended:
        source.state_path.write_bytes(b"saved machine")
    before = guest_sees(source.path)
    made = cloning.clone(store, "source", "new").vm
    assert names(made) - {"base.img", "base-2.img"} == {"config.json", "disk.img", "nvram.bin"} | (
        {"state.vzvmsave"} if suspended else set[str]()
    )
    assert (made.config().mac_address == MAC) == suspended
    assert guest_sees(made.path) == guest_sees(source.path) == before
    guest_writes(made.path, 0, MIB, 1)
    assert guest_sees(source.path) == before
    check(made.path)


def test_first_boot_data_becomes_the_clones_own(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "user-data").write_text("#cloud-config\n{}\n")
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    words = ("--linux", "--from-image", str(image), "--user-data", str(tmp_path / "user-data"))
    created = tart(home, "create", *words, "source")
    assert created.code == 0, created
    assert tart(home, "clone", "source", "new").code == 0
    old, new = (home / "vms" / name / "seed.iso" for name in ("source", "new"))

    def told(seed: Path) -> set[bytes]:
        return {line for line in seed.read_bytes().split(b"\n") if b"instance-id" in line}

    assert told(old)
    assert told(new)
    assert told(old).isdisjoint(told(new))
    assert tart(home, "clone", "source", "source").code == 0


@pytest.mark.parametrize("overlay", [False, True], ids=["raw", "overlay"])
@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replacing"])
def test_a_clone_that_dies_is_not_there_or_whole(tmp_path: Path, *, overlay: bool, replacing: bool) -> None:
    original = filled(tmp_path / "original", overlay=overlay)
    if replacing:
        cloning.clone(original, "source", "new")
        guest_writes(original.folder("new").path, 0, MIB, 9)
    seen = {name: guest_sees(original.folder(name).path) for name in original.names()}
    store = VmStore(Home(tmp_path / "home"))
    outcomes = set[str]()

    def fresh() -> None:
        shutil.rmtree(store.home.root, ignore_errors=True)
        subprocess.run(["cp", "-a", original.home.root, store.home.root], check=True)

    fresh()
    for point in deaths(lambda: cloning.clone(store, "source", "new")):
        assert set(store.names()) - {"new"} == set(original.names()) - {"new"}
        source = store.open("source")
        assert guest_sees(source.path) == seen["source"], f"another disk after point {point}"
        assert source.config().mac_address == MAC
        outcomes.add(outcome(store, seen))
        scratch.collect(store.home.tmp)
        assert os.listdir(store.home.tmp) == []
        made = cloning.clone(store, "source", "new").vm
        assert guest_sees(made.path) == guest_sees(source.path) == seen["source"]
        check(made.path)
        check(source.path)
        fresh()
    assert outcomes == {"old" if replacing else "not there", "new"}


def outcome(store: VmStore, seen: dict[str, bytes]) -> str:
    vm = store.folder("new")
    if not vm.path.exists():
        return "not there"
    assert vm.is_vm()
    assert vm.config().mac_address != MAC
    content = guest_sees(vm.path)
    if content == seen["source"]:
        return "new"
    assert content == seen["new"]
    return "old"


@contextmanager
def small(folder: Path, kibibytes: int) -> Generator[Path]:
    """A file system of that size, mounted at `folder`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.needs_root
@pytest.mark.parametrize("free", [0, 8, 64, 600, 1400], ids=lambda free: f"{free} KiB free")
def test_a_full_disk_leaves_no_half_clone_and_no_half_vm(tmp_path: Path, free: int) -> None:
    with small(tmp_path / "small", 4096) as folder:
        store = filled(folder / "home", data=MIB)  # little enough to be copied
        before = {path.name for path in store.folder("source").path.iterdir()}
        left = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        (folder / "filler").write_bytes(bytes(left - (free << 10)))
        for words in (("clone", "source", "new"), ("create", "--linux", "--disk-size", "1", "new")):
            called = tart(store.home.root, *words)
            if called.code == 0 and free:
                check(store.open("new").path)
                store.delete("new")
                continue
            assert called.code == 1, called
            assert "No space left" in called.err, called
            assert "Traceback" not in called.err
            assert store.names() == ["source"]
            assert os.listdir(store.home.vms) == ["source"]
            assert os.listdir(store.home.tmp) == []
        assert {path.name for path in store.folder("source").path.iterdir()} == before
        check(store.folder("source").path)
