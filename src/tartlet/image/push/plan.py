"""What a push decides before anything is read: which repositories it goes to, and where the disk is cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tartlet.errors import UserError
from tartlet.image.format.layers import Region, cut
from tartlet.image.format.layout import Piece
from tartlet.image.format.reference import ImageName
from tartlet.units import MIB

PIECE_SIZE = 32 * MIB
"""Bytes of a disk that make one layer; docs/decisions/0071-piece-size.md tells how they were chosen."""

MOST_PIECES = 2048
"""Layers of a disk at most: larger disks get larger pieces, so that the manifest stays below a MiB."""


class DigestChosen(UserError):
    """A push to a digest that its image will not have."""

    def __init__(self, name: ImageName) -> None:
        super().__init__(
            f"{name} cannot be pushed to: the digest of an image is what its content comes to", "give a tag instead"
        )


@dataclass(frozen=True, slots=True)
class Target:
    """One repository that is pushed to, and the names that the image gets there."""

    host: str
    namespace: str
    names: tuple[ImageName, ...]
    """At least one."""

    def __str__(self) -> str:
        return f"{self.host}/{self.namespace}"


def targets_of(names: Iterable[ImageName], *, digest: str | None = None) -> list[Target]:
    """The names grouped by repository, in the order in which they were given; each name once.

    Raises DigestChosen for a name by another digest than `digest`.
    """
    groups: dict[tuple[str, str], dict[ImageName, None]] = {}
    for name in names:
        if name.digest not in (None, digest):
            raise DigestChosen(name)
        groups.setdefault((name.host, name.namespace), {})[name] = None
    return [Target(host, namespace, tuple(group)) for (host, namespace), group in groups.items()]


def shown(targets: Sequence[Target]) -> str:
    """The first name, and how many there are besides."""
    more = sum(len(target.names) for target in targets) - 1
    return f"{targets[0].names[0]}" + (f" and {more} more" if more else "")


def piece_size_for(disk_size: int, piece_size: int = PIECE_SIZE) -> int:
    """Bytes of a piece for a disk of that size: `piece_size`, doubled until there are not too many pieces."""
    while disk_size > piece_size * MOST_PIECES:
        piece_size *= 2
    return piece_size


def regions(disk_size: int, piece_size: int, pieces: Sequence[Piece] = ()) -> list[Region]:
    """Cut a disk: as `pieces` as far as they go, the rest every `piece_size` bytes.

    Taking over another image's cuts is what makes its layers usable again. Where the disk goes on behind its last
    piece, which mostly is a short one, that piece is cut anew.
    """
    taken = [Region(piece.offset, piece.size) for piece in pieces if piece.offset + piece.size <= disk_size]
    taken = [region for region in taken if region.size]
    if taken and taken[-1].end < disk_size:
        taken.pop()
    done = taken[-1].end if taken else 0
    return taken + [Region(done + part.offset, part.size) for part in cut(disk_size - done, piece_size)]


def cuts_of(images: Sequence[Sequence[Piece]]) -> Sequence[Piece]:
    """The cuts to take over: those of the first image, or of a later one that only cuts its pieces finer."""
    chosen: Sequence[Piece] = ()
    for pieces in images:
        if not chosen or {piece.offset for piece in chosen} <= {piece.offset for piece in pieces}:
            chosen = pieces
    return chosen
