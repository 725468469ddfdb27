from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tartlet.errors import FileTrouble
from tartlet.image.format.layers import (
    PieceEncoder,
    Region,
    content_digest,
    cut,
    is_zero_content,
    zero_blob,
    zero_layer,
)
from tartlet.image.format.layout import Piece
from tartlet.image.format.lz4_stream import BLOCK, END, encode_blocks
from tartlet.image.format.manifest import PIECE_DIGEST, PIECE_SIZE, Descriptor, digest_of
from tartlet.image.format.piece_writer import CorruptBlob, PieceWriter, punch_hole
from tartlet.image.format.source import RawSource, raw_disk
from tartlet.units import MIB

NOISE = random.Random(3).randbytes(3 * MIB)


class CountingSource(RawSource):
    """A raw disk that remembers what was read of it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, path)
        self.bytes_read = 0

    def read(self, offset: int, length: int) -> bytes:
        self.bytes_read += length
        return super().read(offset, length)


def sparse(path: Path, size: int, *data: tuple[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, content in data:
            file.seek(offset)
            file.write(content)
    return path


def encoded(path: Path, region: Region) -> tuple[bytes, Descriptor]:
    with raw_disk(path) as source:
        encoder = PieceEncoder(source, region)
        blob = b"".join(iter(encoder.step, b""))
        return blob, encoder.descriptor


def as_piece(blob: Descriptor, offset: int) -> Piece:
    size, content = blob.annotation(PIECE_SIZE), blob.annotation(PIECE_DIGEST)
    assert size
    assert content
    return Piece(blob=blob, offset=offset, size=int(size), content_digest=content)


def one_piece(content: bytes, blob: bytes | None = None) -> tuple[bytes, Piece]:
    blob = b"".join(encode_blocks(content)) + END if blob is None else blob
    descriptor = Descriptor(media_type="disk", size=len(blob), digest=digest_of(blob))
    return blob, Piece(blob=descriptor, offset=0, size=len(content), content_digest=digest_of(content))


def written(path: Path, piece: Piece, blob: bytes, *, part: int = 10_000, fresh: bool = True) -> PieceWriter:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        if fresh:
            os.ftruncate(descriptor, max(os.fstat(descriptor).st_size, piece.offset + piece.size))
        writer = PieceWriter(piece, descriptor, path)
        if not fresh:
            writer.clear()
        for at in range(0, len(blob), part):
            writer.feed(blob[at : at + part])
        writer.finish()
    finally:
        os.close(descriptor)
    return writer


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize(
    ("size", "piece", "sizes"),
    [
        (0, 10, []),
        (1, 10, [1]),
        (10, 10, [10]),
        (11, 10, [10, 1]),
        (50_000_000_000, 512 * MIB, [512 * MIB] * 93 + [71_005_184]),
    ],
)
def test_a_disk_is_cut_at_multiples_of_the_piece_size(size: int, piece: int, sizes: list[int]) -> None:
    regions = cut(size, piece)
    assert [region.size for region in regions] == sizes
    assert all(one.end == other.offset for one, other in pairwise(regions))


@pytest.mark.parametrize("piece_size", [64 * MIB, 4 * MIB, 1_000_003, 300_000])
def test_a_disk_comes_back_whatever_the_piece_size(tmp_path: Path, piece_size: int) -> None:
    size = 9 * MIB + 12_345
    disk = sparse(
        tmp_path / "disk", size, (0, b"boot"), (2 * MIB - 7, NOISE), (8 * MIB, b"x" * 70_000), (size - 1, b"z")
    )
    target = tmp_path / "target"
    for region in cut(size, piece_size):
        blob, descriptor = encoded(disk, region)
        assert (descriptor.digest, descriptor.size) == (digest_of(blob), len(blob))
        assert descriptor.annotation(PIECE_DIGEST) == digest_of(disk.read_bytes()[region.offset : region.end])
        written(target, as_piece(descriptor, region.offset), blob)
    assert target.read_bytes() == disk.read_bytes()
    assert allocated(target) <= allocated(disk) + BLOCK * 2 * (4 + size // piece_size)


def test_zeros_are_neither_read_nor_written(tmp_path: Path) -> None:
    size = 2 * 1024 * MIB
    disk = sparse(tmp_path / "disk", size, (1024 * MIB, b"data"), (1500 * MIB, bytes(MIB)))
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        source = CountingSource(descriptor, disk)
        encoder = PieceEncoder(source, Region(0, size))
        blob = b"".join(iter(encoder.step, b""))
    finally:
        os.close(descriptor)
    assert source.bytes_read <= MIB + 2 * BLOCK
    target = tmp_path / "target"
    writer = written(target, as_piece(encoder.descriptor, 0), blob, part=MIB)
    assert writer.written == BLOCK
    assert target.stat().st_size == size
    assert allocated(target) <= 2 * BLOCK
    with raw_disk(target) as result:
        assert result.read(1024 * MIB, 4) == b"data"


def test_a_piece_without_data_is_known_without_reading_it(tmp_path: Path) -> None:
    disk = sparse(tmp_path / "disk", 50_000_000_000, (0, b"data"))
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        source = CountingSource(descriptor, disk)
        regions = cut(source.size, 512 * MIB)
        layers = [zero_layer(source, region) for region in regions]
    finally:
        os.close(descriptor)
    assert layers[0] is None
    assert source.bytes_read == 0
    assert len({layer.digest for layer in layers if layer}) == 2
    assert layers[1]
    assert layers[1].size == 2_285_572
    assert layers[1].annotation(PIECE_DIGEST) == (
        "sha256:9acca8e8c22201155389f65abbf6bc9723edc7384ead80503839f49dcc56d767"
    )
    assert layers[93]
    assert layers[93].annotation(PIECE_DIGEST) == (
        "sha256:7d65b2cf6e59723870984de89c7aa8971c960a5835890c4d52e5958e74cc9c67"
    )
    assert is_zero_content("sha256:9acca8e8c22201155389f65abbf6bc9723edc7384ead80503839f49dcc56d767", 512 * MIB)
    assert not is_zero_content("sha256:9acca8e8c22201155389f65abbf6bc9723edc7384ead80503839f49dcc56d767", MIB)


@pytest.mark.parametrize("size", [1, 200, BLOCK, 5 * BLOCK + 3, 130 * MIB + 1])
def test_the_blob_of_zeros_is_what_encoding_them_gives(tmp_path: Path, size: int) -> None:
    disk = sparse(tmp_path / "disk", size)
    blob, descriptor = encoded(disk, Region(0, size))
    assert b"".join(zero_blob(size)) == blob
    with raw_disk(disk) as source:
        assert zero_layer(source, Region(0, size)) == descriptor
    written(tmp_path / "target", as_piece(descriptor, 0), blob, part=MIB)
    assert allocated(tmp_path / "target") == 0


def test_hashing_without_coding_gives_the_same_digest(tmp_path: Path) -> None:
    disk = sparse(tmp_path / "disk", 7 * MIB, (MIB, NOISE), (6 * MIB, b"x"))
    region = Region(12_345, 6 * MIB)
    with raw_disk(disk) as source:
        *steps, digest = content_digest(source, region)
    assert set(steps) == {None}
    assert digest == digest_of(disk.read_bytes()[region.offset : region.end])


def test_a_descriptor_is_not_told_before_the_end(tmp_path: Path) -> None:
    disk = sparse(tmp_path / "disk", 10, (0, b"x"))
    with raw_disk(disk) as source:
        encoder = PieceEncoder(source, Region(0, 10))
        assert encoder.step()
        with pytest.raises(RuntimeError, match="not encoded"):
            _ = encoder.descriptor


def test_a_disk_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    disk = sparse(tmp_path / "disk", 3 * MIB, (0, NOISE))
    with raw_disk(disk) as source:
        encoder = PieceEncoder(source, Region(0, 3 * MIB))
        encoder.step()
        os.truncate(disk, MIB + 10)
        with pytest.raises(FileTrouble, match="became shorter"):
            list(iter(encoder.step, b""))


def test_a_missing_disk_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileTrouble, match="No such file"), raw_disk(tmp_path / "none"):
        pass


@pytest.mark.parametrize("fresh", [True, False])
def test_stale_bytes_are_cleared_first(tmp_path: Path, fresh: bool) -> None:
    """What a piece leaves behind that turned out wrong must not shine through the zeros of the right one."""
    target = tmp_path / "target"
    target.write_bytes(b"" if fresh else b"\xff" * (3 * MIB))
    content = b"a" * 100 + bytes(MIB) + b"b" * 100 + bytes(MIB)
    blob, piece = one_piece(content)
    written(target, piece, blob, fresh=fresh)
    assert target.read_bytes()[: len(content)] == content
    assert target.read_bytes()[len(content) :] == (b"" if fresh else b"\xff" * (3 * MIB - len(content)))


def test_a_hole_keeps_the_length_and_its_neighbours(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(NOISE)
    with file.open("r+b") as opened:
        punch_hole(opened.fileno(), 1000, 2 * MIB)
        punch_hole(opened.fileno(), 0, 0)
    assert file.read_bytes() == NOISE[:1000] + bytes(2 * MIB) + NOISE[1000 + 2 * MIB :]
    assert allocated(file) <= MIB + 2 * 4096


CONTENT = b"content" * 30_000
GOOD, PIECE = one_piece(CONTENT)


def damaged() -> Iterator[tuple[str, bytes, Piece, str]]:
    middle = len(GOOD) // 2
    flipped = GOOD[:middle] + bytes([GOOD[middle] ^ 1]) + GOOD[middle + 1 :]
    longer, shorter = CONTENT + b"x", CONTENT[:-1]
    yield "bit", flipped, PIECE, "damaged"
    yield "short", GOOD[:-1], PIECE, "instead of"
    yield "long", GOOD + b"x", PIECE, "more than"
    for other, reason in ((longer, "holds more than"), (shorter, "holds 209999 bytes"), (CONTENT[::-1], "its content")):
        blob, described = one_piece(other)
        yield reason, blob, replace(PIECE, blob=described.blob), reason
    blob, described = one_piece(CONTENT, GOOD[:-4])
    yield "no end", blob, described, "cut short"


@pytest.mark.parametrize(("blob", "piece", "reason"), [case[1:] for case in damaged()], ids=[c[0] for c in damaged()])
@pytest.mark.parametrize("part", [1_000_000, 7000])
def test_a_damaged_blob_is_refused(tmp_path: Path, blob: bytes, piece: Piece, reason: str, part: int) -> None:
    with pytest.raises(CorruptBlob, match=reason) as refused:
        written(tmp_path / "target", piece, blob, part=part)
    assert refused.value.digest == piece.blob.digest
    assert (tmp_path / "target").stat().st_size == piece.size


def test_a_read_only_target_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    descriptor = os.open(target, os.O_RDONLY)
    try:
        writer = PieceWriter(PIECE, descriptor, target)
        writer.feed(GOOD)
        with pytest.raises(FileTrouble, match="cannot write"):
            writer.finish()
    finally:
        os.close(descriptor)


EXTENTS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9), st.booleans()), max_size=6)


@given(EXTENTS, st.integers(1, 2_000_000), st.integers(1, 3_000_000))
@settings(deadline=None, max_examples=40)
def test_any_disk_in_any_pieces_comes_back(
    tmp_path_factory: pytest.TempPathFactory, extents: list[tuple[int, int, bool]], size: int, piece_size: int
) -> None:
    folder = tmp_path_factory.mktemp("disk")
    data = [(at * 32_768, (NOISE if noisy else b"text")[:1] * pages * 4096) for at, pages, noisy in extents]
    disk = sparse(folder / "disk", size, *data)
    os.truncate(disk, size)
    for region in cut(size, max(piece_size, 50_000)):
        blob, descriptor = encoded(disk, region)
        written(folder / "target", as_piece(descriptor, region.offset), blob, part=65_000)
    assert hashlib.sha256((folder / "target").read_bytes()).digest() == hashlib.sha256(disk.read_bytes()).digest()
