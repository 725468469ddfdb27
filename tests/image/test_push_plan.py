from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tartlet.image.format.layers import Region
from tartlet.image.format.layout import Piece
from tartlet.image.format.manifest import digest_of, piece_descriptor
from tartlet.image.format.reference import parse
from tartlet.image.push.plan import MOST_PIECES, DigestChosen, cuts_of, piece_size_for, regions, shown, targets_of
from tartlet.units import GB, MIB

DIGEST = digest_of(b"")


def pieces(*sizes: int) -> list[Piece]:
    blob = piece_descriptor(digest=DIGEST, size=1, content_digest=DIGEST, content_size=1)
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [
        Piece(blob=blob, offset=at, size=size, content_digest=DIGEST) for at, size in zip(starts, sizes, strict=True)
    ]


def sizes(disk: int, piece: int, cuts: Sequence[Piece]) -> list[int]:
    return [region.size for region in regions(disk, piece, cuts)]


@pytest.mark.parametrize(
    ("disk", "cuts", "expected"),
    [
        (10, (), [4, 4, 2]),
        (8, (), [4, 4]),
        (10, (6, 4), [6, 4]),
        (10, (6, 2), [6, 4]),  # the disk grew: what was its short end is not taken over
        (13, (4, 4, 2), [4, 4, 4, 1]),
        (7, (6, 4), [4, 3]),  # a smaller disk of another VM
        (10, (0, 6, 0, 4, 0), [6, 4]),
        (10, (11,), [4, 4, 2]),
    ],
)
def test_a_disk_is_cut_as_the_image_it_was(disk: int, cuts: Sequence[int], expected: list[int]) -> None:
    assert sizes(disk, 4, pieces(*cuts)) == expected


@given(disk=st.integers(1, 200), piece=st.integers(1, 50), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_the_regions_are_the_disk_side_by_side(disk: int, piece: int, cuts: list[int]) -> None:
    found = regions(disk, piece, pieces(*cuts))
    assert [part.offset for part in found] == [0, *(part.end for part in found)][:-1]
    assert found[-1].end == disk
    assert all(part.size > 0 for part in found)
    places = {Region(part.offset, part.size) for part in pieces(*cuts)}
    assert all(part.size <= piece for part in found if part not in places)


def test_finer_cuts_are_taken_over_others_are_not() -> None:
    coarse, finer, other = pieces(8, 8), pieces(4, 4, 8), pieces(5, 11)
    assert cuts_of([]) == ()
    assert cuts_of([coarse, finer, other]) == finer
    assert cuts_of([finer, coarse]) == finer
    assert cuts_of([other, coarse]) == other


@pytest.mark.parametrize(
    ("disk", "asked", "expected"),
    [
        (GB, 32 * MIB, 32),
        (2048 * 32 * MIB, 32 * MIB, 32),
        (2048 * 32 * MIB + 1, 32 * MIB, 64),
        (10**13, 32 * MIB, 8192),
    ],
)
def test_a_large_disk_gets_larger_pieces(disk: int, asked: int, expected: int) -> None:
    assert piece_size_for(disk, asked) == expected * MIB
    assert -(-disk // piece_size_for(disk, asked)) <= MOST_PIECES


def test_names_are_grouped_by_repository_in_their_order() -> None:
    words = ("b.io/x:1", "a.io/x:2", "b.io/x:0", "b.io/x", "b.io/y:1", "b.io/x:1")
    targets = targets_of(map(parse, words))
    assert [(str(target), [name.reference for name in target.names]) for target in targets] == [
        ("b.io/x", ["1", "0", "latest"]),
        ("a.io/x", ["2"]),
        ("b.io/y", ["1"]),
    ]
    assert shown(targets) == "b.io/x:1 and 4 more"
    assert shown(targets_of([parse("a/b")])) == "a/b:latest"


def test_a_digest_cannot_be_chosen() -> None:
    name = parse(f"a.io/x@{DIGEST}")
    assert targets_of([name], digest=DIGEST)[0].names == (name,)
    for digest in (None, digest_of(b"other")):
        with pytest.raises(DigestChosen) as refused:
            targets_of([name], digest=digest)
        assert refused.value.hint == "give a tag instead"
