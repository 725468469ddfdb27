"""Published images in every packing and format, and what is refused of them."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tartlet.build.checksum import Checksum, ChecksumMismatch
from tartlet.build.cloud_image import from_image
from tartlet.build.progress import Progress
from tartlet.build.unpack import UnpackFailed, compression, unpack
from tartlet.disk.convert import UnsupportedImage
from tartlet.errors import FileTrouble, ToolMissing
from tartlet.host.process import run
from tartlet.units import MIB

DISK = b"boot" + bytes(4 * MIB) + random.Random(1).randbytes(MIB) + bytes(11 * MIB - 4)
"""16 MiB, most of it zeros, its end too."""


def zst(content: bytes) -> bytes:
    return subprocess.run(["zstd", "--stdout", "--quiet"], input=content, stdout=subprocess.PIPE, check=True).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "xz": lzma.compress, "zst": zst}


@pytest.fixture(params=PACKERS)
def packing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_packed_disk_becomes_a_sparse_one(tmp_path: Path, packing: str) -> None:
    packed, target = tmp_path / f"disk.{packing}", tmp_path / "disk.img"
    packed.write_bytes(PACKERS[packing](DISK))
    told: list[Progress] = []
    await unpack(packed, target, told.append)
    assert target.read_bytes() == DISK
    assert target.stat().st_blocks * 512 < 2 * MIB
    assert told[-1] == Progress(f"unpacking {packed.name}", packed.stat().st_size, packed.stat().st_size)


async def test_the_first_bytes_tell_the_packing_not_the_name(tmp_path: Path, packing: str) -> None:
    packed = tmp_path / "disk.img"
    packed.write_bytes(PACKERS[packing](b"content"))
    assert compression(packed) == packing


@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
async def test_a_packed_disk_that_was_cut_short_is_refused(tmp_path: Path, packing: str, part: float) -> None:
    whole = PACKERS[packing](DISK)
    packed, target = tmp_path / "packed", tmp_path / "disk.img"
    packed.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(UnpackFailed, match="packed"):
        await unpack(packed, target)
    assert not target.exists()


async def test_a_packed_disk_that_was_changed_is_refused(tmp_path: Path, packing: str) -> None:
    whole = bytearray(PACKERS[packing](DISK))
    whole[len(whole) // 2] ^= 0xFF
    packed, target = tmp_path / "packed", tmp_path / "disk.img"
    packed.write_bytes(whole)
    with pytest.raises(UnpackFailed):
        await unpack(packed, target)
    assert not target.exists()


async def test_an_existing_target_is_kept(tmp_path: Path, packing: str) -> None:
    packed, target = tmp_path / "packed", tmp_path / "disk.img"
    packed.write_bytes(PACKERS[packing](DISK))
    target.write_bytes(b"mine")
    with pytest.raises(FileTrouble):
        await unpack(packed, target)
    assert target.read_bytes() == b"mine"


async def test_without_the_zstd_program_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packed").write_bytes(zst(b"content"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="zstd"):
        await unpack(tmp_path / "packed", tmp_path / "disk.img")


@pytest.mark.parametrize("packing", [None, *PACKERS])
@pytest.mark.parametrize("form", ["raw", "qcow2", "vmdk", "vdi"])
async def test_every_format_in_every_packing_becomes_the_same_raw_disk(
    tmp_path: Path, form: str, packing: str | None
) -> None:
    raw, image, target = tmp_path / "raw", tmp_path / "image", tmp_path / "disk.img"
    raw.write_bytes(DISK)
    await run("qemu-img", "convert", "-f", "raw", "-O", form, raw, image)
    if packing:
        image.write_bytes(PACKERS[packing](image.read_bytes()))
    disk = await from_image(str(image), target, cache=tmp_path / "cache")
    assert (disk.path, disk.size) == (target, len(DISK))
    assert target.read_bytes() == DISK
    assert target.stat().st_blocks * 512 < 2 * MIB
    assert sorted(os.listdir(tmp_path)) == ["disk.img", "image", "raw"]


async def test_a_checksum_is_compared_with_the_file_as_it_is_published(tmp_path: Path) -> None:
    image = tmp_path / "image.gz"
    image.write_bytes(gzip.compress(DISK))
    good = Checksum("sha256", hashlib.sha256(image.read_bytes()).hexdigest())
    await from_image(str(image), tmp_path / "good.img", cache=tmp_path, checksum=good)
    with pytest.raises(ChecksumMismatch):
        await from_image(str(image), tmp_path / "bad.img", cache=tmp_path, checksum=Checksum("sha256", "0" * 64))
    assert not (tmp_path / "bad.img").exists()


def tar_archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("disk.raw"))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (tar_archive(), "tar archive"),
        (gzip.compress(tar_archive()), "tar archive"),
        (b"\n<!DOCTYPE html><title>Not here</title>", "web page"),
        (gzip.compress(gzip.compress(DISK)), "gzip"),
        (bz2.compress(DISK), "bzip2"),
        (b"", "empty"),
    ],
    ids=["tar", "tar.gz", "html", "gz.gz", "bz2", "empty"],
)
async def test_what_is_no_disk_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "image").write_bytes(content)
    with pytest.raises(UnsupportedImage, match=why):
        await from_image(str(tmp_path / "image"), tmp_path / "disk.img", cache=tmp_path)
    assert os.listdir(tmp_path) == ["image"]


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileTrouble, match="absent"):
        await from_image(str(tmp_path / "absent"), tmp_path / "disk.img", cache=tmp_path)
