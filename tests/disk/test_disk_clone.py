"""Clones share what they can, their guests see the same bytes, and no neighbour can break them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from disk_files import check, empty_folder, guest_sees, guest_writes, mounted, run, vm_folder
from tartlet.disk.chain import ForeignBacking, chain_of
from tartlet.disk.clone import CloneMethod, CloneReport, TornCopy, clone_disk, stand_on
from tartlet.disk.create import create_disk
from tartlet.disk.freeze import MAX_BASES, freeze, merge_from
from tartlet.disk.model import DiskFormat, allocated, inspect
from tartlet.disk.qcow2 import write_empty
from tartlet.errors import FileTrouble
from tartlet.host.trouble import NoSpace
from tartlet.units import GB, MIB


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system with reflinks."""
    with mounted(tmp_path_factory.mktemp("xfs") / "xfs.img", 400 * MIB, "mkfs.xfs", "-q", "-m", "reflink=1") as point:
        yield point


def cloned(source: Path, target: Path, *, running: bool = False) -> CloneReport:
    return clone_disk(source, empty_folder(target), running=running)


def test_a_stopped_disk_becomes_the_base_of_both(tmp_path: Path) -> None:
    source, target = vm_folder(tmp_path / "a"), tmp_path / "b"
    before = guest_sees(source)
    report = cloned(source, target)
    assert report == CloneReport(
        method=CloneMethod.SHARED_BASE, format=DiskFormat.QCOW2, source_format=DiskFormat.QCOW2, bytes_copied=0
    )
    assert guest_sees(source) == guest_sees(target) == before
    assert (source / "base.img").samefile(target / "base.img")
    base = (source / "base.img").stat()
    assert (base.st_mode & 0o777, base.st_nlink) == (0o444, 2)
    check(source)
    check(target)


def test_each_guest_writes_only_for_itself(tmp_path: Path) -> None:
    source, target = vm_folder(tmp_path / "a"), tmp_path / "b"
    before = guest_sees(source)
    cloned(source, target)
    guest_writes(source, 0, 65536, 0xAA)
    assert guest_sees(target) == before
    guest_writes(target, MIB, 65536, 0xBB)
    assert guest_sees(source) == b"\xaa" * 65536 + before[65536:]
    assert guest_sees(target) == before[:MIB] + b"\xbb" * 65536 + before[MIB + 65536 :]


def test_a_clone_outlives_its_source_and_moves_with_its_home(tmp_path: Path) -> None:
    source, target = vm_folder(tmp_path / "home" / "a"), tmp_path / "home" / "b"
    before = guest_sees(source)
    cloned(source, target)
    shutil.rmtree(source)
    (tmp_path / "home").rename(tmp_path / "moved: elsewhere")
    assert guest_sees(tmp_path / "moved: elsewhere" / "b") == before


def test_a_disk_of_odd_length_keeps_every_byte(tmp_path: Path) -> None:
    source, target = vm_folder(tmp_path / "a", 5 * MIB + 77, data=5 * MIB + 77), tmp_path / "b"
    content = (source / "disk.img").read_bytes()
    assert cloned(source, target).method is CloneMethod.SHARED_BASE
    assert guest_sees(target) == content + bytes(512 - 77)


def test_a_nearly_empty_disk_is_copied_and_stays_raw(tmp_path: Path) -> None:
    source, target = vm_folder(tmp_path / "a", 20 * GB, data=65536), tmp_path / "b"
    report = cloned(source, target)
    assert (report.method, report.format, report.bytes_copied) == (CloneMethod.COPY, DiskFormat.RAW, 65536)
    assert (target / "disk.img").stat().st_size == 20 * GB
    assert allocated(target / "disk.img") == 65536
    assert sorted(os.listdir(source)) == ["disk.img"]


def test_a_plain_qcow2_disk_becomes_a_base_too(tmp_path: Path) -> None:
    source = empty_folder(tmp_path / "a")
    create_disk(source / "disk.img", 64 * MIB, DiskFormat.QCOW2)
    guest_writes(source, 0, 4 * MIB, 7)
    before = guest_sees(source)
    cloned(source, tmp_path / "b")
    assert [base.format for base in chain_of(tmp_path / "b").bases] == [DiskFormat.QCOW2]
    assert guest_sees(source) == guest_sees(tmp_path / "b") == before


def test_ten_clones_of_one_vm_share_one_base(tmp_path: Path) -> None:
    source = vm_folder(tmp_path / "a")
    for number in range(10):
        cloned(source, tmp_path / f"b{number}")
    assert sorted(os.listdir(source)) == sorted(os.listdir(tmp_path / "b9")) == ["base.img", "disk.img"]
    assert (source / "base.img").stat().st_nlink == 11


def test_fifty_generations_that_only_ran_a_little_stand_on_one_base(tmp_path: Path) -> None:
    before = guest_sees(vm_folder(tmp_path / "0"))
    for number in range(50):
        cloned(tmp_path / str(number), tmp_path / str(number + 1))
    assert sorted(os.listdir(tmp_path / "50")) == ["base.img", "disk.img"]
    assert guest_sees(tmp_path / "50") == before


def test_generations_that_wrote_a_lot_stay_bounded_and_right(tmp_path: Path) -> None:
    vm_folder(tmp_path / "0", 48 * MIB)
    expected = bytearray(guest_sees(tmp_path / "0"))
    generations = 2 * MAX_BASES + 2
    for number in range(generations):
        folder = tmp_path / str(number)
        at = (number * 5 % 44) * MIB + 4096
        guest_writes(folder, at, 3 * MIB, number + 1)
        expected[at : at + 3 * MIB] = bytes([number + 1]) * (3 * MIB)
        cloned(folder, tmp_path / str(number + 1))
        for either in (folder, tmp_path / str(number + 1)):
            assert len(chain_of(either).bases) <= MAX_BASES
        assert guest_sees(folder) == guest_sees(tmp_path / str(number + 1)) == expected
        if number:
            shutil.rmtree(tmp_path / str(number - 1))
    assert len(os.listdir(tmp_path / str(generations))) <= MAX_BASES + 1
    check(tmp_path / str(generations))


@pytest.mark.parametrize(
    ("sizes", "cut"),
    [
        ([1000, 10, 10, 10, 10], 1),  # 40 bytes save three layers
        ([1000, 80, 10, 10, 10], 2),  # the merged layer of an earlier time stays
        ([1000, 500, 1, 1, 1], 2),
        ([1000, 1, 500, 500], 1),
        ([1, 900, 10], 1),  # the bottom is never copied
    ],
)
def test_merging_copies_the_fewest_bytes_for_each_layer_saved(sizes: list[int], cut: int) -> None:
    assert merge_from(sizes) == cut


def test_a_running_source_is_not_touched(tmp_path: Path) -> None:
    source, target = vm_folder(tmp_path / "a"), tmp_path / "b"
    inode = (source / "disk.img").stat().st_ino
    report = cloned(source, target, running=True)
    assert (report.method, report.format) == (CloneMethod.COPY, DiskFormat.RAW)
    assert (source / "disk.img").stat().st_ino == inode
    assert os.listdir(source) == ["disk.img"]
    assert guest_sees(target) == guest_sees(source)


def test_a_running_overlay_is_copied_on_the_same_base(tmp_path: Path) -> None:
    source, target = vm_folder(tmp_path / "a"), tmp_path / "c"
    cloned(source, tmp_path / "b")
    guest_writes(source, 0, 6 * MIB, 9)
    report = cloned(source, target, running=True)
    assert report.method is CloneMethod.SHARED_BASE
    assert report.bytes_copied >= 6 * MIB
    assert guest_sees(target) == guest_sees(source)
    assert (target / "base.img").samefile(source / "base.img")


def test_a_torn_overlay_of_a_running_source_is_refused(tmp_path: Path) -> None:
    source, target = vm_folder(tmp_path / "a"), tmp_path / "c"
    cloned(source, tmp_path / "b")
    guest_writes(source, 0, 4 * MIB, 9)
    with (source / "disk.img").open("r+b") as disk:  # an L1 entry that points to a cluster nobody counted
        disk.seek(3 * 65536)
        disk.write((0x8000_0000_0300_0000).to_bytes(8))
    with pytest.raises(TornCopy, match="written too fast") as caught:
        cloned(source, target, running=True)
    assert caught.value.hint
    assert os.listdir(target) == []


def test_cloning_while_the_guest_writes_gives_a_whole_disk_or_says_no(tmp_path: Path) -> None:
    source = vm_folder(tmp_path / "a", 512 * MIB)
    cloned(source, tmp_path / "b")
    outcomes: list[CloneMethod | None] = []
    for number in range(3):
        words = ["qemu-img", "bench", "-w", "-f", "qcow2", "-t", "writeback", "-d", "8", "-c", "100000", "-S", "327680"]
        with subprocess.Popen([*words, source / "disk.img"], stdout=subprocess.DEVNULL) as writer:
            try:
                time.sleep(0.05 * number)
                report = cloned(source, tmp_path / f"c{number}", running=True)
                outcomes.append(report.method)
                found = subprocess.run(["qemu-img", "check", "-q", tmp_path / f"c{number}" / "disk.img"], check=False)
                assert found.returncode in (0, 3)
                assert len(guest_sees(tmp_path / f"c{number}")) == 512 * MIB
            except TornCopy:
                outcomes.append(None)
                assert os.listdir(tmp_path / f"c{number}") == []
            finally:
                writer.kill()
    assert CloneMethod.SHARED_BASE in outcomes


@pytest.mark.needs_root
def test_another_users_vm_is_copied_when_its_files_cannot_be_linked(tmp_path: Path) -> None:
    """Neither may its folder be written, nor does the kernel let a stranger link its base (protected_hardlinks)."""
    raw, layered = vm_folder(tmp_path / "raw"), vm_folder(tmp_path / "layered")
    cloned(layered, tmp_path / "b")
    mine = empty_folder(tmp_path / "mine")
    os.chown(mine, 65534, 65534)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)
    script = (
        "import sys; from pathlib import Path; from tartlet.disk.clone import clone_disk\n"
        "target = Path(sys.argv[2]); target.mkdir()\n"
        "print(clone_disk(Path(sys.argv[1]), target, running=False).method)"
    )
    protected = Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1"
    for source, expected in ((raw, "copy"), (layered, "copy" if protected else "shared base")):
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", script]
        assert run(*words, source, mine / source.name).strip() == expected
        assert guest_sees(mine / source.name) == guest_sees(source)
    assert os.listdir(raw) == ["disk.img"]


def test_a_backing_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.img"
    secret.write_bytes(b"secret" * 1000)
    source = empty_folder(tmp_path / "a")
    write_empty(source / "disk.img", 8 * MIB, (str(secret), "raw"))
    with pytest.raises(ForeignBacking, match=r"secret\.img"):
        cloned(source, tmp_path / "b")
    assert os.listdir(tmp_path / "b") == []


def test_a_link_as_disk_is_copied_not_frozen(tmp_path: Path) -> None:
    source = vm_folder(tmp_path / "a")
    (source / "disk.img").rename(tmp_path / "elsewhere.img")
    (source / "disk.img").symlink_to(tmp_path / "elsewhere.img")
    assert cloned(source, tmp_path / "b").method is CloneMethod.COPY
    assert (source / "disk.img").is_symlink()
    assert not (tmp_path / "b" / "disk.img").is_symlink()
    assert guest_sees(tmp_path / "b") == guest_sees(source)


def test_leftovers_of_a_killed_freeze_are_swept_by_the_next(tmp_path: Path) -> None:
    source = vm_folder(tmp_path / "a")
    before = guest_sees(source)
    os.link(source / "disk.img", source / "base.img")
    (source / ".disk.img.new").write_bytes(b"half")
    (source / ".layer.new").write_bytes(b"half")
    cloned(source, tmp_path / "b")
    assert sorted(os.listdir(source)) == ["base.img", "disk.img"]
    assert guest_sees(source) == guest_sees(tmp_path / "b") == before


def test_a_missing_source_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    empty_folder(tmp_path / "a")
    with pytest.raises(FileTrouble, match=r"a/disk\.img: No such file"):
        cloned(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path / "b") == []


def test_a_folder_that_has_a_disk_keeps_it(tmp_path: Path) -> None:
    source, other = vm_folder(tmp_path / "a"), vm_folder(tmp_path / "b", data=MIB)
    before = guest_sees(other)
    with pytest.raises(FileTrouble, match="it has a disk already"):
        clone_disk(source, other, running=False)
    with pytest.raises(FileTrouble, match="nowhere: No such file"):
        clone_disk(source, tmp_path / "nowhere", running=False)
    assert guest_sees(other) == before
    assert os.listdir(source) == ["disk.img"]


def test_clones_at_the_same_time_wait_for_each_other(tmp_path: Path) -> None:
    source = vm_folder(tmp_path / "a")
    before = guest_sees(source)
    script = (
        "import sys; from pathlib import Path; from tartlet.disk.clone import clone_disk\n"
        "target = Path(sys.argv[2]); target.mkdir()\n"
        "clone_disk(Path(sys.argv[1]), target, running=False)"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script, source, tmp_path / f"b{number}"]) for number in range(6)
    ]
    assert [child.wait() for child in children] == [0] * 6
    for number in range(6):
        assert guest_sees(tmp_path / f"b{number}") == before
    assert guest_sees(source) == before
    assert sorted(os.listdir(source)) == ["base.img", "disk.img"]


@pytest.mark.needs_root
def test_reflinks_are_preferred_and_leave_the_source_alone(xfs: Path) -> None:
    source, target = vm_folder(xfs / "a"), xfs / "b"
    report = cloned(source, target)
    assert report == CloneReport(
        method=CloneMethod.REFLINK, format=DiskFormat.RAW, source_format=DiskFormat.RAW, bytes_copied=0
    )
    assert os.listdir(source) == ["disk.img"]
    assert (target / "disk.img").read_bytes() == (source / "disk.img").read_bytes()
    guest_writes(target, 0, 65536, 3)
    assert guest_sees(source)[:65536] != guest_sees(target)[:65536]


@pytest.mark.needs_root
def test_a_chain_moves_to_another_file_system_whole(tmp_path: Path, xfs: Path) -> None:
    source = vm_folder(tmp_path / "a")
    cloned(source, tmp_path / "b")
    guest_writes(source, 0, 3 * MIB, 5)
    report = cloned(source, xfs / "far")
    assert (report.method, report.format) == (CloneMethod.COPY, DiskFormat.QCOW2)
    assert report.bytes_copied > 7 * MIB
    assert guest_sees(xfs / "far") == guest_sees(source)
    report = cloned(xfs / "far", xfs / "near")  # and there the overlay is reflinked, its base linked
    assert (report.method, report.bytes_copied) == (CloneMethod.REFLINK, 0)
    assert guest_sees(xfs / "near") == guest_sees(source)


@pytest.mark.needs_root
def test_a_raw_disk_for_another_file_system_is_copied_not_frozen(tmp_path: Path, xfs: Path) -> None:
    source = vm_folder(tmp_path / "a")
    report = cloned(source, xfs / "raw")
    assert (report.method, report.format, report.bytes_copied) == (CloneMethod.COPY, DiskFormat.RAW, 4 * MIB)
    assert os.listdir(source) == ["disk.img"]
    assert allocated(xfs / "raw" / "disk.img") < 8 * MIB


@pytest.mark.needs_root
def test_a_full_disk_leaves_neither_half_a_clone_nor_a_changed_source(tmp_path: Path) -> None:
    with mounted(tmp_path / "small.img", 16 * MIB, "mkfs.ext4", "-q", "-m0", "-O", "^has_journal") as small:
        source = vm_folder(tmp_path / "a", data=24 * MIB)
        with pytest.raises(NoSpace, match="no room to write") as caught:
            cloned(source, small / "b")
        assert caught.value.hint
        assert os.listdir(small / "b") == []
        near = vm_folder(small / "c", data=4 * MIB)
        before = guest_sees(near, tmp_path)
        fill(small / "filler")
        with pytest.raises(NoSpace):
            cloned(near, small / "d")
        assert os.listdir(small / "d") == []
        assert guest_sees(near, tmp_path) == before


@pytest.mark.needs_root
def test_a_disk_that_fills_up_while_layers_merge_changes_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path / "small.img", 72 * MIB, "mkfs.ext4", "-q", "-m0") as small:
        source = vm_folder(small / "a", 32 * MIB, data=3 * MIB)
        for number in range(MAX_BASES):
            freeze(source, chain_of(source))
            guest_writes(source, number * 3 * MIB, 3 * MIB, number + 1)
        before, names = guest_sees(source, tmp_path), sorted(os.listdir(source))
        make = empty_folder(small / "b")
        with (small / "filler").open("wb") as filler:
            filler.write(bytes(shutil.disk_usage(small).free - 4 * MIB))
        with pytest.raises(NoSpace, match="no room to write"):
            clone_disk(source, make, running=False)
        assert sorted(os.listdir(source)) == names
        assert os.listdir(make) == []
        assert guest_sees(source, tmp_path) == before
        (small / "filler").unlink()
        clone_disk(source, make, running=False)
        assert guest_sees(make, tmp_path) == guest_sees(source, tmp_path) == before


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_standing_on_a_cached_file_links_it(tmp_path: Path) -> None:
    cached = vm_folder(tmp_path / "cache") / "disk.img"
    before = cached.read_bytes()
    report = stand_on(cached, empty_folder(tmp_path / "b"))
    assert (report.method, report.format, report.bytes_copied) == (CloneMethod.SHARED_BASE, DiskFormat.QCOW2, 0)
    assert (tmp_path / "b" / "base.img").samefile(cached)
    assert cached.stat().st_mode & 0o777 == 0o444
    cached.unlink()
    assert guest_sees(tmp_path / "b") == before
    assert inspect(tmp_path / "b" / "disk.img", "raw").format is DiskFormat.QCOW2


def test_a_cached_raw_disk_with_a_header_inside_stays_raw(tmp_path: Path) -> None:
    cached = vm_folder(tmp_path / "cache") / "disk.img"
    write_empty(tmp_path / "forged", GB)
    with cached.open("r+b") as disk:
        disk.write((tmp_path / "forged").read_bytes()[:4096])
    content = cached.read_bytes()
    stand_on(cached, empty_folder(tmp_path / "b"), declared="raw")
    assert inspect(tmp_path / "b" / "disk.img").backing == ("base.img", DiskFormat.RAW)
    assert guest_sees(tmp_path / "b") == content


@pytest.mark.needs_root
def test_standing_on_a_file_of_another_file_system_copies_it(tmp_path: Path, xfs: Path) -> None:
    cached = vm_folder(tmp_path / "cache") / "disk.img"
    report = stand_on(cached, empty_folder(xfs / "stand"))
    assert (report.method, report.format, report.bytes_copied) == (CloneMethod.COPY, DiskFormat.RAW, 4 * MIB)
    assert stand_on(xfs / "stand" / "disk.img", empty_folder(xfs / "stand2")).method is CloneMethod.REFLINK


def test_an_overlay_cannot_be_stood_on(tmp_path: Path) -> None:
    source = vm_folder(tmp_path / "a")
    cloned(source, tmp_path / "b")
    with pytest.raises(ForeignBacking):
        stand_on(source / "disk.img", empty_folder(tmp_path / "c"))
    assert os.listdir(tmp_path / "c") == []
