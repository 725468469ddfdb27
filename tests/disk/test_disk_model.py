"""Headers, believed and not."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disk_files import empty_folder, run, vm_folder
from tartlet.disk import qcow2
from tartlet.disk.chain import ForeignBacking, chain_of
from tartlet.disk.clone import clone_disk
from tartlet.disk.freeze import MAX_BASES, freeze
from tartlet.disk.model import DiskFormat, inspect, is_base_name
from tartlet.disk.qcow2 import DamagedDisk, write_empty
from tartlet.units import GB, MIB


@pytest.mark.parametrize(
    "options", ["compat=0.10", "compat=1.1", "extended_l2=on,cluster_size=128k", "cluster_size=512"]
)
def test_headers_of_qemu_are_read(tmp_path: Path, options: str) -> None:
    disk = tmp_path / "disk.img"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, disk, str(20 * GB))
    found = inspect(disk)
    assert (found.format, found.size, found.backing) == (DiskFormat.QCOW2, 20 * GB, None)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_the_base_in_qemus_header_is_read(tmp_path: Path, compat: str) -> None:
    (tmp_path / "base.img").write_bytes(bytes(MIB))
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"compat={compat}", "-b", "base.img", "-F", "raw"]
    run(*words, tmp_path / "disk.img")
    assert inspect(tmp_path / "disk.img").backing == ("base.img", DiskFormat.RAW)
    assert chain_of(tmp_path).bases[0].size == MIB


def test_a_header_that_a_guest_wrote_into_its_raw_disk_is_data(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    folder = empty_folder(tmp_path / "a")
    for backing in (None, (str(secret), "raw"), ("base.img", "raw"), ("../secret", "raw")):
        write_empty(tmp_path / "forged", GB, backing)
        (folder / "disk.img").write_bytes((tmp_path / "forged").read_bytes()[:4096].ljust(MIB, b"\0"))
        (tmp_path / "forged").unlink()
        found = inspect(folder / "disk.img", "raw")
        assert (found.format, found.size, found.backing) == (DiskFormat.RAW, MIB, None)


def test_a_header_in_a_raw_base_is_data_too(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path / "a")
    write_empty(tmp_path / "forged", GB, ("/etc/hostname", "raw"))
    with (folder / "disk.img").open("r+b") as disk:
        disk.write((tmp_path / "forged").read_bytes()[:4096])
    clone_disk(folder, empty_folder(tmp_path / "b"), running=False, declared="raw")
    (base,) = chain_of(tmp_path / "b").bases
    assert (base.format, base.size, base.backing) == (DiskFormat.RAW, 64 * MIB, None)


def test_chains_that_leave_the_folder_or_run_in_circles_are_refused(tmp_path: Path) -> None:
    for name in ("other.img", "../base.img", "/base.img", "base.img/../x", "json:{}", "nbd://host"):
        write_empty(tmp_path / "disk.img", MIB, (name, "raw"))
        with pytest.raises(ForeignBacking):
            chain_of(tmp_path)
        (tmp_path / "disk.img").unlink()
    (tmp_path / "base.img").symlink_to("/etc/hostname")
    write_empty(tmp_path / "disk.img", MIB, ("base.img", "raw"))
    with pytest.raises(ForeignBacking):
        chain_of(tmp_path)
    (tmp_path / "base.img").unlink()
    write_empty(tmp_path / "base.img", MIB, ("base.img", "qcow2"))
    (tmp_path / "disk.img").unlink()
    write_empty(tmp_path / "disk.img", MIB, ("base.img", "qcow2"))
    with pytest.raises(DamagedDisk, match="twice"):
        chain_of(tmp_path)


def test_a_base_of_untold_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.img").write_bytes(bytes(MIB))
    write_empty(tmp_path / "disk.img", MIB, ("base.img", ""))
    with pytest.raises(DamagedDisk, match="not told"):
        inspect(tmp_path / "disk.img")


def test_a_data_file_is_refused(tmp_path: Path) -> None:
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data"]
    run(*words, tmp_path / "disk.img", "1M")
    with pytest.raises(DamagedDisk, match="another file"):
        inspect(tmp_path / "disk.img")
    assert inspect(tmp_path / "disk.img", "raw").format is DiskFormat.RAW


def test_asif_is_recognised_by_its_header(tmp_path: Path) -> None:
    header = bytearray(b"shdw" + struct.pack(">I", 1)).ljust(4096, b"\0")
    header[0x30:0x38] = struct.pack(">Q", 97656250)
    header[0x44:0x46] = struct.pack(">H", 512)
    (tmp_path / "disk.img").write_bytes(header)
    assert (inspect(tmp_path / "disk.img").format, inspect(tmp_path / "disk.img").size) == (DiskFormat.ASIF, 50 * GB)
    assert inspect(tmp_path / "disk.img", "raw").size == 4096
    report = clone_disk(tmp_path, empty_folder(tmp_path / "b"), running=False, declared="asif")
    assert report.format is DiskFormat.ASIF
    assert (tmp_path / "b" / "disk.img").read_bytes() == bytes(header)
    (tmp_path / "disk.img").write_bytes(b"shdw")
    with pytest.raises(DamagedDisk, match="cut short"):
        inspect(tmp_path / "disk.img")


@given(st.binary(max_size=600), st.integers(0, 104), st.binary(max_size=8))
def test_any_bytes_after_the_mark_are_read_or_refused_but_never_crash(rest: bytes, at: int, change: bytes) -> None:
    name = b"\0base.img"
    whole = (
        struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 113, 8, 16, GB, 0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 4, 104) + name
    )
    for start in (b"QFI\xfb" + rest, whole[: 4 + at] + change + whole[4 + at + len(change) :] + rest):
        try:
            header = qcow2.parse(start)
        except DamagedDisk:
            continue
        assert header is not None
        assert header.size % 512 == 0
        assert header.backing_name is None or len(header.backing_name) <= 1023


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base.img", True), ("base-2.img", True), ("base-17.img", True), ("base-0.img", False), ("base-.img", False),
        ("BASE.img", False), ("base.img\n", False), ("disk.img", False), ("../base.img", False), ("base-02.img", False),
    ],
)  # fmt: skip
def test_names_of_bases(name: str, expected: bool) -> None:
    assert is_base_name(name) is expected


def test_random_layers_merge_to_what_the_guest_saw(tmp_path: Path) -> None:
    """Layers with data, zeroes and discards over each other, and a disk that grew on the way."""
    folder = vm_folder(tmp_path / "a", 16 * MIB)
    chance = random.Random(11)
    size = 16 * MIB
    for layer in range(12):
        if layer == 4:
            size = 20 * MIB
            run("qemu-img", "resize", "-q", "-f", "qcow2", folder / "disk.img", str(size))
        for _ in range(6):
            at = chance.randrange(0, size - MIB, 4096)
            verb = chance.choice([f"write -P {chance.randrange(1, 255)}", "write -z", "write -z -u", "discard"])
            length = chance.randrange(4096, MIB, 4096)
            run(
                "qemu-io", "-f", inspect(folder / "disk.img").format, "-c", f"{verb} {at} {length}", folder / "disk.img"
            )
        flat = tmp_path / "flat"
        run("qemu-img", "convert", "-O", "raw", folder / "disk.img", flat)
        freeze(folder, chain_of(folder))
        run("qemu-img", "compare", "-q", "-F", "raw", folder / "disk.img", flat)
        run("qemu-img", "check", "-q", folder / "disk.img")
        assert len(chain_of(folder).bases) == len(os.listdir(folder)) - 1 <= MAX_BASES
