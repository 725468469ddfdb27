"""Copies keep holes, can be ended, and leave nothing half."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disk_files import mounted, run
from tartlet.errors import FileTrouble
from tartlet.host.copying import reflink, sparse_copy
from tartlet.host.trouble import NoSpace
from tartlet.units import GB, MIB


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(tmp_path_factory.mktemp("xfs") / "xfs.img", 400 * MIB, "mkfs.xfs", "-q", "-m", "reflink=1") as point:
        yield point


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(tmp_path_factory.mktemp("small") / "small.img", 8 * MIB, "mkfs.ext4", "-q", "-m0") as point:
        yield point


def sparse_file(path: Path, size: int, pieces: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for at, content in pieces.items():
            file.seek(at)
            file.write(content)
    return path


def taken(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 20 * MIB, 20 * MIB + 3])
def test_a_copy_has_the_same_bytes(tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    (tmp_path / "a").write_bytes(content)
    assert sparse_copy(tmp_path / "a", tmp_path / "b") == size
    assert (tmp_path / "b").read_bytes() == content


def test_holes_stay_holes(tmp_path: Path) -> None:
    source = sparse_file(tmp_path / "a", 100 * GB, {0: b"start", 50 * GB: b"x" * MIB, 100 * GB - 3: b"end"})
    copied = sparse_copy(source, tmp_path / "b", sync=True)
    assert copied < 2 * MIB
    assert taken(tmp_path / "b") == taken(source)
    with (tmp_path / "b").open("rb") as file:
        assert file.read(5) == b"start"
        file.seek(50 * GB)
        assert file.read(MIB + 1) == b"x" * MIB + b"\0"
        file.seek(100 * GB - 3)
        assert file.read() == b"end"


def test_a_file_that_is_one_hole_copies_nothing(tmp_path: Path) -> None:
    assert sparse_copy(sparse_file(tmp_path / "a", GB, {}), tmp_path / "b") == 0
    assert ((tmp_path / "b").stat().st_size, taken(tmp_path / "b")) == (GB, 0)


@pytest.mark.needs_root
def test_between_file_systems_holes_stay_too(tmp_path: Path, xfs: Path) -> None:
    content = random.Random(2).randbytes(17 * MIB + 9)
    source = sparse_file(tmp_path / "a", GB, {MIB: content})
    assert sparse_copy(source, xfs / "b") < 18 * MIB
    assert taken(xfs / "b") < 20 * MIB
    with (xfs / "b").open("rb") as file:
        file.seek(MIB)
        assert file.read(len(content)) == content
    assert not reflink(source, xfs / "c")
    assert not (xfs / "c").exists()


@pytest.mark.parametrize("refusals", [1, 2])
def test_the_copy_goes_on_where_the_kernel_copies_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EXDEV, "refused")

    for name in ("copy_file_range", "sendfile")[:refusals]:
        monkeypatch.setattr(os, name, refused)
    content = random.Random(3).randbytes(9 * MIB + 5)
    (tmp_path / "a").write_bytes(content)
    assert sparse_copy(tmp_path / "a", tmp_path / "b") == len(content)
    assert (tmp_path / "b").read_bytes() == content


def test_progress_tells_every_byte_and_may_end_the_copy(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes([1]) * (20 * MIB))
    told: list[int] = []
    sparse_copy(tmp_path / "a", tmp_path / "b", progress=told.append)
    assert sum(told) == 20 * MIB
    assert max(told) <= 8 * MIB

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sparse_copy(tmp_path / "a", tmp_path / "c", progress=interrupt)
    assert not (tmp_path / "c").exists()


@pytest.mark.needs_root
def test_a_full_file_system_keeps_no_half_file(tmp_path: Path, small: Path) -> None:
    (tmp_path / "a").write_bytes(random.Random(4).randbytes(12 * MIB))
    with pytest.raises(NoSpace, match=r"no room to write .*/b: No space left") as caught:
        sparse_copy(tmp_path / "a", small / "b", sync=True)
    assert "prune" in (caught.value.hint or "")
    assert not (small / "b").exists()


@pytest.mark.parametrize("make", [sparse_copy, reflink])
def test_an_existing_target_and_a_missing_source_are_named(
    tmp_path: Path, make: Callable[[Path, Path], object]
) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    with pytest.raises(FileTrouble, match=r"cannot write .*/b: File exists"):
        make(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"b"
    with pytest.raises(FileTrouble, match=r"cannot read .*/nope: No such file"):
        make(tmp_path / "nope", tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.needs_root
def test_a_reflink_takes_no_room_and_parts_on_the_first_write(xfs: Path) -> None:
    content = random.Random(5).randbytes(8 * MIB)
    (xfs / "r").write_bytes(content)
    run("sync", "-f", xfs)
    before = os.statvfs(xfs).f_bfree
    assert reflink(xfs / "r", xfs / "s")
    run("sync", "-f", xfs)
    assert (before - os.statvfs(xfs).f_bfree) * os.statvfs(xfs).f_frsize < MIB
    with (xfs / "s").open("r+b") as file:
        file.write(b"other")
    assert (xfs / "r").read_bytes() == content
    assert (xfs / "s").read_bytes() == b"other" + content[5:]


def test_a_file_system_without_reflinks_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    if reflink(tmp_path / "a", tmp_path / "b"):
        pytest.skip("the tests' file system has reflinks")
    assert not (tmp_path / "b").exists()


@pytest.mark.needs_root
def test_a_block_device_is_copied_whole(tmp_path: Path) -> None:
    content = random.Random(6).randbytes(3 * MIB)
    (tmp_path / "a").write_bytes(content)
    device = run("losetup", "--find", "--show", "--read-only", tmp_path / "a").strip()
    try:
        assert sparse_copy(device, tmp_path / "b") == len(content)
    finally:
        run("losetup", "--detach", device)
    assert (tmp_path / "b").read_bytes() == content
