"""Every cut and every changed byte of good streams and manifests: the worst that happens is an error that says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import pytest

from stacked_images import stacked_manifest
from tartlet.image.format.layout import StackedImage, flat_layout
from tartlet.image.format.lz4_stream import BadStream, Decoder
from tartlet.image.format.manifest import FILE_DIGEST, PIECE_SIZE, BadManifest, read_manifest

STORED = b"bv4-\x0e\0\0\0Hello, World!\n" + b"bv4$"
REFERRING = bytes.fromhex(
    "6276342d10000000" + "4142434445464748494a4b4c4d4e4f50"  # sixteen letters, stored
    "627634311100000011000000" + "10581100c0595959595959595959595959"  # one, then four from sixteen before it
    "62763424"
)
REPEATING = bytes.fromhex("62763431" + "1f000000" + "0b000000" + "1f61010006" + "506262626262" + "62763424")
"""One letter, the same 25 times more (a length of two bytes), five others."""


def flat() -> dict[str, Any]:
    """The manifest of an image with one piece of 4096 bytes."""
    document: dict[str, Any] = json.loads(stacked_manifest().encoded())
    del document["layers"][2], document["layers"][1]["annotations"][FILE_DIGEST]
    return document


def damaged(good: bytes, changes: Iterator[int] | range) -> Iterator[bytes]:
    """What is left of it after every cut; then each byte changed in turn, each in all of the ways."""
    yield from (good[:end] for end in range(len(good)))
    for change in changes:
        yield from (good[:at] + bytes([good[at] ^ change]) + good[at + 1 :] for at in range(len(good)))


@pytest.mark.parametrize(
    ("stream", "plain"),
    [
        (STORED, b"Hello, World!\n"),
        (REFERRING, b"ABCDEFGHIJKLMNOP" + b"XABCD" + b"Y" * 12),
        (REPEATING, b"a" * 26 + b"b" * 5),
    ],
)
def test_damaged_streams(stream: bytes, plain: bytes) -> None:
    assert decoded(stream) == plain
    for cut in range(len(stream)):
        with pytest.raises(BadStream):
            decoded(stream[:cut])
    for bad in damaged(stream, range(1, 256)):
        with suppress(BadStream):
            assert len(decoded(bad)) <= 2**24


def decoded(stream: bytes) -> bytes:
    decoder = Decoder()
    plain = b"".join(decoder.feed(stream))
    decoder.close()
    return plain


@pytest.mark.parametrize("document", [flat(), json.loads(stacked_manifest().encoded())], ids=["flat", "stacked"])
def test_damaged_manifests(document: dict[str, Any]) -> None:
    for bad in damaged(json.dumps(document).encode(), iter((0x01, 0x02, 0x10, 0x20, 0x40, 0x80))):
        with suppress(BadManifest, StackedImage):
            layout = flat_layout(read_manifest(bad), "a.b/c")
            assert layout.base.size == sum(piece.size for piece in layout.base.pieces) < 2**63


@pytest.mark.parametrize("value", [None, True, -1, 1.5, 2**64, 10**400, "", "x", [], {}, [[]], {"size": 1}])
def test_values_that_nobody_expects(value: object) -> None:
    for path in paths(flat()):
        document = flat()
        *way, last = path
        place: Any = document
        for step in way:
            place = place[step]
        place[last] = value
        with suppress(BadManifest, StackedImage):
            assert flat_layout(read_manifest(json.dumps(document).encode()), "a.b/c").base.size < 2**63


def paths(value: object, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every value inside."""
    if isinstance(value, dict):
        items = list(cast("dict[Any, object]", value).items())
    else:
        items = list(enumerate(cast("list[object]", value))) if isinstance(value, list) else []
    for key, inner in items:
        yield (*before, key)
        yield from paths(inner, (*before, key))


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (4108 * 255 + 1, "4108 bytes cannot hold 1047541 bytes"),
        (10**13, "cannot hold"),
        (2**63, "cannot hold"),
        (2**64 - 1, "cannot hold"),
        (2**64, "no number of at most 64 bits"),
    ],
)
def test_a_disk_that_its_layers_cannot_hold(size: int, reason: str) -> None:
    document = flat()
    document["layers"][1]["annotations"][PIECE_SIZE] = str(size)
    with pytest.raises(BadManifest, match=reason):
        flat_layout(read_manifest(json.dumps(document).encode()), "a.b/c")


def test_a_disk_that_no_file_can_hold() -> None:
    document = flat()
    piece = document["layers"][1]
    piece["size"], piece["annotations"][PIECE_SIZE] = 2**62, str(2**62)
    document["layers"][1:2] = [piece, piece]
    with pytest.raises(BadManifest, match="no file can have the 9223372036854775808 bytes"):
        flat_layout(read_manifest(json.dumps(document).encode()), "a.b/c")
