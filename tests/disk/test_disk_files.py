"""Making, measuring, growing and replacing the disk of a VM folder."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from disk_files import check, empty_folder, freed_bytes, guest_sees, guest_writes, image_format, mounted, run, vm_folder
from tartlet.disk.chain import ForeignBacking, chain_of
from tartlet.disk.clone import clone_disk
from tartlet.disk.create import create_disk
from tartlet.disk.model import DiskFormat, ShrinkRefused, allocated, inspect
from tartlet.disk.qcow2 import MAX_SIZE
from tartlet.disk.replace import replace_disk, replacement
from tartlet.disk.resize import grow_disk
from tartlet.disk.usage import disk_usage
from tartlet.errors import FileTrouble, InvalidArgument
from tartlet.units import GB, MIB


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(tmp_path_factory.mktemp("xfs") / "xfs.img", 400 * MIB, "mkfs.xfs", "-q", "-m", "reflink=1") as point:
        yield point


def clone(source: Path, target: Path) -> Path:
    clone_disk(source, empty_folder(target), running=False)
    return target


def test_an_empty_raw_disk_has_exactly_its_size_and_takes_no_room(tmp_path: Path) -> None:
    disk = create_disk(tmp_path / "disk.img", 50 * GB)
    assert (disk.path.stat().st_size, allocated(disk.path)) == (50 * GB, 0)
    assert inspect(disk.path) == disk


@pytest.mark.parametrize("size", [0, 1, 511, 512, 20 * GB, 65535 * GB, MAX_SIZE])
def test_an_empty_qcow2_disk_is_what_qemu_makes_of_it(tmp_path: Path, size: int) -> None:
    disk = create_disk(tmp_path / "disk.img", size, DiskFormat.QCOW2)
    assert disk.size == -(-size // 512) * 512
    assert inspect(disk.path) == disk
    assert allocated(disk.path) <= 128 * 1024 + size // 2**29 // 512
    check(tmp_path)
    assert f"({disk.size} bytes)" in run("qemu-img", "info", disk.path)


def test_a_new_qcow2_disk_takes_writes_up_to_its_end(tmp_path: Path) -> None:
    create_disk(tmp_path / "disk.img", 20 * GB, DiskFormat.QCOW2)
    guest_writes(tmp_path, 20 * GB - MIB, MIB, 5)
    guest_writes(tmp_path, 0, MIB, 6)
    run("qemu-io", "-c", f"read -P 5 {20 * GB - MIB} {MIB}", "-c", f"read -P 6 0 {MIB}", tmp_path / "disk.img")
    check(tmp_path)


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="only be made on macOS"):
        create_disk(tmp_path / "disk.img", GB, DiskFormat.ASIF)
    with pytest.raises(InvalidArgument, match="cannot have"):
        create_disk(tmp_path / "disk.img", MAX_SIZE + 512)
    (tmp_path / "disk.img").write_bytes(b"mine")
    for kind in (DiskFormat.RAW, DiskFormat.QCOW2):
        with pytest.raises(FileTrouble, match=r"disk\.img: File exists"):
            create_disk(tmp_path / "disk.img", GB, kind)
    assert (tmp_path / "disk.img").read_bytes() == b"mine"


def test_a_raw_disk_grows_sparsely(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path / "a")
    before = (folder / "disk.img").read_bytes()
    assert grow_disk(folder, 30 * GB).size == 30 * GB
    assert allocated(folder / "disk.img") < 5 * MIB
    with (folder / "disk.img").open("rb") as disk:
        assert disk.read(len(before)) == before


def test_an_overlay_grows_and_shows_zeros_behind_its_base(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path / "a")
    before = guest_sees(folder)
    other = clone(folder, tmp_path / "b")
    assert grow_disk(folder, 100 * MIB, "raw").size == 100 * MIB
    assert guest_sees(folder) == before + bytes(36 * MIB)
    guest_writes(folder, 90 * MIB, 5 * MIB, 8)
    third = clone(folder, tmp_path / "c")
    assert guest_sees(third) == before + bytes(26 * MIB) + b"\x08" * (5 * MIB) + bytes(5 * MIB)
    assert guest_sees(other) == before
    check(folder)


@pytest.mark.parametrize("layers", ["raw", "overlay"])
def test_a_disk_never_shrinks_and_its_own_size_changes_nothing(tmp_path: Path, layers: str) -> None:
    folder = vm_folder(tmp_path / "a", 50 * GB)
    if layers == "overlay":
        clone(folder, tmp_path / "b")
    before = (folder / "disk.img").stat()
    with pytest.raises(ShrinkRefused, match="has 50 GB and cannot shrink to 40 GB"):
        grow_disk(folder, 40 * GB)
    with pytest.raises(ShrinkRefused, match="has 50000000000 bytes and cannot shrink to 49999999488 bytes"):
        grow_disk(folder, 50 * GB - 512)
    assert grow_disk(folder, 50 * GB).size == 50 * GB
    assert (folder / "disk.img").stat().st_mtime_ns == before.st_mtime_ns


def test_another_disk_takes_the_place_of_an_overlay(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path / "a")
    other = clone(folder, tmp_path / "b")
    before = guest_sees(other)
    image = tmp_path / "image"
    image.write_bytes(random.Random(9).randbytes(3 * MIB))
    image.chmod(0o444)
    disk = replacement(image, tmp_path / "set-disk")
    assert (disk.format, disk.size) == (DiskFormat.RAW, 3 * MIB)
    replace_disk(folder, disk.path)
    assert os.listdir(folder) == ["disk.img"]
    assert guest_sees(folder) == image.read_bytes()
    assert os.access(folder / "disk.img", os.W_OK)
    assert (folder / "disk.img").stat().st_mode & 0o200
    assert guest_sees(other) == before
    assert not (tmp_path / "set-disk").exists()


def test_a_qcow2_file_can_be_the_new_disk_but_an_overlay_cannot(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path / "a")
    image = create_disk(tmp_path / "image", 32 * MIB, DiskFormat.QCOW2)
    assert replacement(image.path, tmp_path / "new").format is DiskFormat.QCOW2
    replace_disk(folder, tmp_path / "new")
    assert inspect(folder / "disk.img", "qcow2").size == 32 * MIB
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image.path, "-F", "qcow2", tmp_path / "overlay")
    with pytest.raises(ForeignBacking):
        replacement(tmp_path / "overlay", tmp_path / "new")
    with pytest.raises(FileTrouble, match="nope: No such file"):
        replacement(tmp_path / "nope", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_shared_bases_are_charged_to_nobody_until_one_owner_is_left(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path / "a")
    assert disk_usage(folder).allocated == 4 * MIB
    other = clone(folder, tmp_path / "b")
    for either in (folder, other):
        usage = disk_usage(either, "raw")
        assert usage.disk.size == 64 * MIB
        assert usage.allocated == allocated(either / "disk.img") < MIB
        assert freed_bytes(either) == usage.allocated
    shutil.rmtree(folder)
    assert disk_usage(other).allocated == freed_bytes(other) == 4 * MIB + allocated(other / "disk.img")


def test_measuring_a_missing_base_does_not_fail(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path / "a")
    clone(folder, tmp_path / "b")
    (folder / "base.img").unlink()
    assert disk_usage(folder, "qcow2").disk.size == 64 * MIB


def test_measuring_leaves_the_access_time_alone(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path / "a")
    os.utime(folder, (1000, 2000))
    disk_usage(folder)
    freed_bytes(folder)
    assert folder.stat().st_atime == 1000


def test_names_within_one_folder_free_their_file_once(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path / "a")
    os.link(folder / "disk.img", folder / "base.img")
    assert freed_bytes(folder) == 4 * MIB
    (folder / "inner").mkdir()
    (folder / "inner" / "more").write_bytes(bytes(MIB))
    assert freed_bytes(folder) == 5 * MIB
    os.link(folder / "disk.img", tmp_path / "elsewhere")
    assert freed_bytes(folder) == MIB


@pytest.mark.needs_root
def test_reflinked_blocks_are_not_freed(xfs: Path) -> None:
    folder = vm_folder(xfs / "a")
    run("sync", "-f", xfs)
    assert freed_bytes(folder) == 4 * MIB
    other = clone(folder, xfs / "b")
    run("sync", "-f", xfs)
    assert freed_bytes(folder) == freed_bytes(other) == 0
    guest_writes(other, 0, MIB, 4)
    run("sync", "-f", xfs)
    assert MIB <= freed_bytes(other) < 2 * MIB


def test_formats_are_told_by_the_file_not_by_the_config(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path / "a")
    assert inspect(folder / "disk.img", "qcow2").format is DiskFormat.RAW
    clone(folder, tmp_path / "b")
    assert inspect(folder / "disk.img", "raw").format is DiskFormat.QCOW2
    assert chain_of(folder, "raw").bases[0].size == 64 * MIB
    assert image_format(folder / "disk.img") == "qcow2"
