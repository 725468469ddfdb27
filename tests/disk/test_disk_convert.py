"""Foreign images come in whole, sparse and without pulling in other files."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from disk_files import empty_folder, guest_sees, guest_writes, mounted, run, vm_folder
from tartlet.disk.chain import chain_of
from tartlet.disk.clone import clone_disk
from tartlet.disk.convert import UnsupportedImage, convert_to_raw, flatten
from tartlet.disk.model import DiskFormat, allocated
from tartlet.errors import FileTrouble
from tartlet.host.trouble import NoSpace
from tartlet.units import MIB

pytestmark = pytest.mark.anyio


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small.ext4", 8 * MIB, "mkfs.ext4", "-q", "-m0") as point:
        yield point


def raw_image(path: Path) -> Path:
    with path.open("wb") as file:
        file.write(random.Random(1).randbytes(3 * MIB))
        file.truncate(200 * MIB)
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["raw"], ["qcow2"], ["qcow2", "-c"], ["vmdk"], ["vmdk", "-o", "subformat=streamOptimized"], ["vdi"],
        ["vdi", "-o", "static=on"],
    ],
    ids=" ".join,
)  # fmt: skip
async def test_an_image_becomes_raw_and_sparse(tmp_path: Path, words: list[str]) -> None:
    original = raw_image(tmp_path / "raw")
    run("qemu-img", "convert", "-f", "raw", "-O", *words, original, tmp_path / "image: one")
    told: list[int] = []
    disk = await convert_to_raw(tmp_path / "image: one", tmp_path / "disk.img", told.append)
    assert (disk.format, disk.size, disk.path) == (DiskFormat.RAW, 200 * MIB, tmp_path / "disk.img")
    assert disk.path.read_bytes() == original.read_bytes()
    assert allocated(disk.path) < 4 * MIB
    assert sum(told) == 200 * MIB
    assert min(told) >= 0


async def test_images_that_pull_in_other_files_are_refused(tmp_path: Path) -> None:
    original = raw_image(tmp_path / "raw")
    image = tmp_path / "image"
    for words, why in (
        (["-O", "qcow2", "-o", f"data_file={tmp_path}/data"], "another file"),
        (["-O", "vmdk", "-o", "subformat=monolithicFlat"], "only describes other files"),
        (["-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"], "only describes other files"),
        (["-O", "vpc"], "vhd"),
        (["-O", "vhdx"], "vhdx"),
    ):
        run("qemu-img", "convert", "-f", "raw", *words, original, image)
        with pytest.raises(UnsupportedImage, match=why) as caught:
            await convert_to_raw(image, tmp_path / "disk.img")
        assert caught.value.hint
        assert not (tmp_path / "disk.img").exists()
        image.unlink()
    for kind in ("qcow2", "vmdk"):
        run("qemu-img", "convert", "-f", "raw", "-O", kind, original, tmp_path / f"below.{kind}")
        run("qemu-img", "create", "-q", "-f", kind, "-b", tmp_path / f"below.{kind}", "-F", kind, image)
        with pytest.raises(UnsupportedImage, match="another file"):
            await convert_to_raw(image, tmp_path / "disk.img")
        image.unlink()


async def test_a_guests_own_header_inside_a_raw_image_is_not_followed(tmp_path: Path) -> None:
    """What has no mark known here is raw to QEMU too, although QEMU knows more marks."""
    content = b"WithoutFreeSpace".ljust(64 * 1024, b"\0")  # a Parallels image, to a program that guesses
    (tmp_path / "image").write_bytes(content)
    await convert_to_raw(tmp_path / "image", tmp_path / "disk.img")
    assert (tmp_path / "disk.img").read_bytes() == content


@pytest.mark.parametrize("start", [b"", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"shdw", b"PK\x03\x04"])
async def test_what_is_no_disk_is_named(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "image").write_bytes(start)
    with pytest.raises(UnsupportedImage, match=r"image cannot be used: "):
        await convert_to_raw(tmp_path / "image", tmp_path / "disk.img")


@pytest.mark.parametrize("words", [["qcow2"], ["qcow2", "-c"], ["vmdk"], ["vdi"]], ids=" ".join)
async def test_a_download_that_was_cut_short_is_noticed(tmp_path: Path, words: list[str]) -> None:
    run("qemu-img", "convert", "-f", "raw", "-O", *words, raw_image(tmp_path / "raw"), tmp_path / "cut")
    os.truncate(tmp_path / "cut", (tmp_path / "cut").stat().st_size - MIB)
    with pytest.raises(UnsupportedImage, match="cut short"):
        await convert_to_raw(tmp_path / "cut", tmp_path / "disk.img")
    assert not (tmp_path / "disk.img").exists()


async def test_missing_and_existing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileTrouble, match="nope: No such file"):
        await convert_to_raw(tmp_path / "nope", tmp_path / "disk.img")
    (tmp_path / "disk.img").write_bytes(b"mine")
    with pytest.raises(FileTrouble, match="File exists"):
        await convert_to_raw(raw_image(tmp_path / "raw"), tmp_path / "disk.img")
    assert (tmp_path / "disk.img").read_bytes() == b"mine"


@pytest.mark.needs_root
async def test_a_full_disk_leaves_no_half_image(tmp_path: Path, small: Path) -> None:
    (tmp_path / "image").write_bytes(random.Random(1).randbytes(12 * MIB))
    with pytest.raises(NoSpace, match="no room to write"):
        await convert_to_raw(tmp_path / "image", small / "disk.img")
    assert not (small / "disk.img").exists()


async def test_a_cancelled_conversion_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes([7]) * (64 * MIB))
    with anyio.CancelScope() as scope:
        await convert_to_raw(tmp_path / "image", tmp_path / "disk.img", lambda _: scope.cancel())
    assert scope.cancelled_caught
    assert not (tmp_path / "disk.img").exists()


async def test_progress_that_raises_ends_the_conversion(tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        await convert_to_raw(raw_image(tmp_path / "raw"), tmp_path / "disk.img", stop)
    assert not (tmp_path / "disk.img").exists()


async def test_layers_flatten_to_what_the_guest_sees(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path / "a")
    clone_disk(folder, empty_folder(tmp_path / "b"), running=False)
    guest_writes(folder, MIB, 3 * MIB, 5)
    disk = await flatten(chain_of(folder), tmp_path / "flat.img")
    assert disk.size == 64 * MIB
    assert disk.path.read_bytes() == guest_sees(folder)
    assert allocated(disk.path) < 5 * MIB
