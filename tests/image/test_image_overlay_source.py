from __future__ import annotations

import random
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from tartlet.disk.chain import chain_of
from tartlet.disk.qcow2 import DamagedDisk
from tartlet.image.format.layers import PieceEncoder, Region, zero_layer
from tartlet.image.format.manifest import PIECE_DIGEST, digest_of
from tartlet.image.format.overlay_source import UnreadableDisk, open_chain
from tartlet.units import MIB

SIZE = 600 * MIB
"""More than what one table of clusters covers."""


def qemu(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=60)


def overlay(folder: Path, name: str, base: str, kind: str, size: int) -> None:
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", kind, folder / name, str(size))


def write(path: Path, *commands: str) -> None:
    words: list[str | Path] = ["qemu-io", "-f", "qcow2"]
    for command in commands:
        words += ["-c", command]
    qemu(*words, path)


def flat(folder: Path) -> bytes:
    """What QEMU makes of the disk."""
    qemu("qemu-img", "convert", "-O", "raw", folder / "disk.img", folder / "flat.raw")
    return (folder / "flat.raw").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A VM's disk on two bases: data of each, zeros over data, and a disk that grew twice."""
    with (tmp_path / "base-2.img").open("wb") as file:
        file.write(random.Random(6).randbytes(3 * MIB))
        file.seek(100 * MIB + 777)
        file.write(b"bottom" * 50_000)
        file.truncate(300 * MIB + 512)
    overlay(tmp_path, "base.img", "base-2.img", "raw", 500 * MIB)
    write(tmp_path / "base.img", "write -P 7 1M 100k", "write -P 8 299M 4M", "write -z 2M 512k", "write -P 9 499M 1M")
    overlay(tmp_path, "disk.img", "base.img", "qcow2", SIZE)
    write(tmp_path / "disk.img", "write -P 1 1050k 3k", "write -P 2 590M 2M", "write -z 300M 1M", "write -P 3 0 512")
    return tmp_path


def test_the_content_is_what_qemu_reads(folder: Path) -> None:
    expected = flat(folder)
    with open_chain(chain_of(folder, "qcow2")) as source:
        assert source.size == SIZE == len(expected)
        assert source.read(0, SIZE) == expected
        for place in random.Random(7).sample(range(SIZE - 200_000), 200):
            assert source.read(place, 199_999) == expected[place : place + 199_999]


def test_only_what_may_hold_data_is_named(folder: Path) -> None:
    expected = flat(folder)
    with open_chain(chain_of(folder, "qcow2")) as source:
        ranges = list(source.data(0, SIZE))
    assert all(one[1] < other[0] for one, other in pairwise(ranges))
    assert sum(end - start for start, end in ranges) < 12 * MIB
    at = 0
    for start, end in [*ranges, (SIZE, SIZE)]:
        assert not expected[at:start].strip(b"\0")
        at = end


@pytest.mark.parametrize("region", [Region(0, SIZE), Region(MIB + 5, 299 * MIB), Region(580 * MIB, 20 * MIB)])
def test_layers_are_made_through_the_chain(folder: Path, region: Region) -> None:
    expected = flat(folder)[region.offset : region.end]
    with open_chain(chain_of(folder, "qcow2")) as source:
        encoder = PieceEncoder(source, region)
        while encoder.step():
            pass
        assert encoder.descriptor.annotation(PIECE_DIGEST) == digest_of(expected)
        assert zero_layer(source, Region(400 * MIB, 50 * MIB))


def test_untouched_means_the_bytes_of_the_lowest_file(folder: Path) -> None:
    bottom = (folder / "base-2.img").read_bytes()
    chosen = random.Random(5)
    starts = [chosen.randrange(SIZE) for _ in range(300)]
    edges = [MIB, 1050 * 1024, 2 * MIB, 100 * MIB, 299 * MIB, 300 * MIB, len(bottom), 499 * MIB, 590 * MIB]
    places = [
        (at, at + chosen.choice((512, 65536, 3 * MIB))) for at in (*starts, *edges, *(at - 65536 for at in edges))
    ]
    with open_chain(chain_of(folder, "qcow2")) as source:
        untouched = [(start, end) for start, end in places if end <= SIZE and source.is_untouched(start, end)]
        for start, end in untouched:
            assert end <= len(bottom)
            assert source.read(start, end - start) == bottom[start:end]
        assert not any(start < MIB + 102400 and end > MIB for start, end in untouched)  # written in the middle
        assert not any(start < 303 * MIB and end > 299 * MIB for start, end in untouched)
        assert source.is_untouched(100 * MIB, 101 * MIB)
        assert source.is_untouched(10 * MIB, 11 * MIB)  # a hole
        assert not source.is_untouched(len(bottom) - 512, len(bottom) + 512)
    assert len(untouched) > 50


def test_a_raw_disk_alone_is_a_chain_too(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(b"raw" * 100_000)
    with open_chain(chain_of(tmp_path, "raw")) as source:
        assert source.read(0, source.size) == b"raw" * 100_000


def test_compressed_clusters_are_refused(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"text" * MIB)
    qemu("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", tmp_path / "plain", tmp_path / "disk.img")
    with open_chain(chain_of(tmp_path, "qcow2")) as source, pytest.raises(UnreadableDisk, match="compressed"):
        source.read(0, 10)


def test_tables_outside_of_the_file_are_refused(folder: Path) -> None:
    raw = bytearray((folder / "disk.img").read_bytes())
    raw[40:48] = (1 << 40).to_bytes(8, "big")
    (folder / "disk.img").write_bytes(raw)
    with pytest.raises(DamagedDisk, match="outside"), open_chain(chain_of(folder, "qcow2")):
        pass
