"""Killed at any point, a clone leaves the source's guest its disk, and the next clone finds nothing in its way."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from disk_files import check, empty_folder, guest_sees, guest_writes, run, vm_folder
from killed import deaths
from tartlet.disk.chain import chain_of
from tartlet.disk.clone import clone_disk
from tartlet.disk.freeze import MAX_BASES, freeze
from tartlet.disk.replace import replace_disk, replacement
from tartlet.disk.resize import grow_disk
from tartlet.host.locks import try_file_lock
from tartlet.units import MIB


def layered(folder: Path, layers: int) -> Path:
    """A stopped VM whose disk stands on that many bases, and whose top has enough data to be frozen."""
    vm_folder(folder, 12 * MIB, data=3 * MIB)
    for number in range(layers):
        freeze(folder, chain_of(folder))
        guest_writes(folder, number * MIB, 3 * MIB, number + 1)
    return folder


def names(folder: Path) -> set[str]:
    return {"disk.img"} | {base.path.name for base in chain_of(folder, "raw").bases}


def settled(folder: Path) -> None:
    """Wait for a qemu-img that outlived the killed process and still has the disk."""
    for _ in range(100):
        if subprocess.run(["qemu-img", "info", folder / "disk.img"], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.05)
    pytest.fail(f"{folder} stays locked")


@pytest.mark.parametrize("layers", [0, 1, MAX_BASES])
def test_a_clone_killed_at_any_point(tmp_path: Path, layers: int) -> None:
    original = layered(tmp_path / "original", layers)
    before = guest_sees(original)
    source, target = tmp_path / "a", tmp_path / "b"
    points = 0

    def fresh() -> None:
        for folder in (source, target):
            shutil.rmtree(folder, ignore_errors=True)
        run("cp", "-a", "--sparse=always", original, source)
        target.mkdir()

    fresh()
    for point in deaths(lambda: clone_disk(source, target, running=False, declared="raw")):
        points += 1
        lock = try_file_lock(source)
        assert lock is not None, f"still locked after point {point}"
        os.close(lock)
        chain_of(source, "raw")
        assert guest_sees(source) == before, f"another disk after point {point}"
        assert os.access(source / "disk.img", os.W_OK)
        assert (source / "disk.img").stat().st_mode & 0o777 == 0o644
        clone_disk(source, empty_folder(tmp_path / "again"), running=False, declared="raw")
        for folder in (source, tmp_path / "again"):
            assert guest_sees(folder) == before, f"a wrong clone after point {point}"
            assert set(os.listdir(folder)) == names(folder), f"left-overs after point {point}"
            assert all(base.path.stat().st_mode & 0o777 == 0o444 for base in chain_of(folder).bases)
            check(folder)
        shutil.rmtree(tmp_path / "again")
        fresh()
    assert points > 12
    assert guest_sees(target) == guest_sees(source) == before


def test_a_guest_that_runs_after_a_killed_freeze_keeps_what_it_writes(tmp_path: Path) -> None:
    """The second name that the killed freeze gave its disk must not become somebody's base later."""
    original = layered(tmp_path / "original", 0)
    source, target = tmp_path / "a", tmp_path / "b"
    run("cp", "-a", original, source)
    target.mkdir()
    for point in deaths(lambda: clone_disk(source, target, running=False, declared="raw")):
        guest_writes(source, MIB, 65536, point % 255 + 1)
        seen = guest_sees(source)
        clone_disk(source, empty_folder(tmp_path / "c"), running=False)
        guest_writes(source, MIB, 65536, 0xFF)
        assert guest_sees(tmp_path / "c") == seen
        for folder in (source, target, tmp_path / "c"):
            shutil.rmtree(folder)
        run("cp", "-a", original, source)
        target.mkdir()


@pytest.mark.parametrize("layers", [0, 2])
def test_growing_killed_at_any_point(tmp_path: Path, layers: int) -> None:
    original = layered(tmp_path / "original", layers)
    before = guest_sees(original)
    source = tmp_path / "a"
    run("cp", "-a", original, source)
    for _ in deaths(lambda: grow_disk(source, 20 * MIB)):
        settled(source)
        assert guest_sees(source) in (before, before + bytes(8 * MIB))
        grow_disk(source, 20 * MIB)
        assert guest_sees(source) == before + bytes(8 * MIB)
        check(source)
        shutil.rmtree(source)
        run("cp", "-a", original, source)


@pytest.mark.parametrize("layers", [0, 2])
def test_replacing_killed_at_any_point(tmp_path: Path, layers: int) -> None:
    original = layered(tmp_path / "original", layers)
    before = guest_sees(original)
    source, image = tmp_path / "a", tmp_path / "image"
    image.write_bytes(b"new" * MIB)
    run("cp", "-a", original, source)

    def replaced() -> None:
        replacement(image, tmp_path / "set-disk")
        replace_disk(source, tmp_path / "set-disk")

    for _ in deaths(replaced):
        assert guest_sees(source) in (before, image.read_bytes())
        (tmp_path / "set-disk").unlink(missing_ok=True)
        shutil.rmtree(source)
        run("cp", "-a", original, source)
    assert guest_sees(source) == image.read_bytes()
    assert os.listdir(source) == ["disk.img"]
