"""Pieces of disks that are on this machine already, found by the digest of their content, at any offset.

Where a piece is believed to be is only a hint: what was shared or copied is hashed, and a piece that turns out to be
something else is downloaded.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tartlet.errors import UserError
from tartlet.host.ranges import copy_range, share_range
from tartlet.host.trouble import trouble_writing
from tartlet.image.format.layers import Region, content_digest
from tartlet.image.format.layout import Piece, looks_stacked, read_layout
from tartlet.image.format.manifest import read_manifest
from tartlet.image.format.piece_writer import punch_hole, start_writing_back
from tartlet.image.format.source import RawSource

log = logging.getLogger(__name__)

_TARGETS_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What only the file that is written to can be the reason of. With anything else the piece is fetched instead."""

_COPIED_AT_ONCE = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalDisk:
    """A raw disk file on this machine that is, or was once, the disk of an image."""

    manifest: bytes
    """The image's manifest."""
    path: Path


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a piece's content may be found."""

    path: Path
    offset: int


class LocalPieces:
    """The pieces of all images that are known here."""

    def __init__(self, disks: Iterable[LocalDisk]) -> None:
        self._found: dict[tuple[str, int], dict[Whereabouts, None]] = {}
        seen: set[tuple[int, int, bytes]] = set()
        for disk in disks:
            try:
                file = os.stat(disk.path)
                one = (file.st_dev, file.st_ino, disk.manifest)
                if one in seen:  # an image's disk is a VM's base
                    continue
                seen.add(one)
                manifest = read_manifest(disk.manifest)
                if looks_stacked(manifest):
                    continue
                pieces = read_layout(manifest).base.pieces
            except (OSError, UserError) as exc:
                log.debug("nothing of %s is used again: %s", disk.path, exc)
                continue
            for piece in pieces:
                if piece.offset + piece.size <= file.st_size:
                    places = self._found.setdefault((piece.content_digest, piece.size), {})
                    places[Whereabouts(disk.path, piece.offset)] = None

    def of(self, piece: Piece) -> list[Whereabouts]:
        """Where the content of a piece may be; the same offset first, which file systems share best."""
        found = self._found.get((piece.content_digest, piece.size), {})
        return sorted(found, key=lambda place: place.offset != piece.offset)


def take(piece: Piece, place: Whereabouts, target: int, path: Path, *, may_copy: bool) -> Iterator[bool | None]:
    """Fill a region of the disk open as `target` with what is at `place`: None after each step, then whether it fits.

    Without `may_copy` only where the file system shares it. The region has to read as zeros before, and does so again
    when the content turns out to be something else. Raises FileTrouble when the target cannot be written.
    """
    try:
        source = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        log.debug("cannot use %s again: %s", place.path, exc)
        yield False
        return
    try:
        shared = share_range(source, place.offset, target, piece.offset, piece.size)
        if not shared and not may_copy:
            yield False
            return
        for _ in _copied(piece, place, source, target, shared):
            yield None
        region = Region(piece.offset, piece.size)
        found: str | None = None
        for found in content_digest(RawSource(target, path), region):
            if found is None:
                yield None
        if found != piece.content_digest:
            log.debug("%s does not hold %s at %d", place.path, piece.content_digest, place.offset)
            punch_hole(target, piece.offset, piece.size)
        else:
            start_writing_back(target, piece.offset, piece.size)
        yield found == piece.content_digest
    except OSError as exc:
        if exc.errno in _TARGETS_TROUBLE:
            raise trouble_writing(path, exc) from exc
        log.debug("cannot use %s again: %s", place.path, exc)
        _cleared(piece, target, path)
        yield False
    finally:
        os.close(source)


def _cleared(piece: Piece, target: int, path: Path) -> None:
    try:
        punch_hole(target, piece.offset, piece.size)
    except OSError as exc:
        raise trouble_writing(path, exc) from exc


def _copied(piece: Piece, place: Whereabouts, source: int, target: int, shared: int) -> Iterator[None]:
    """Copy what is behind the first `shared` bytes of the piece."""
    shift = piece.offset - place.offset
    for start, end in RawSource(source, place.path).data(place.offset + shared, place.offset + piece.size):
        for at in range(start, end, _COPIED_AT_ONCE):
            copy_range(source, at, target, at + shift, min(_COPIED_AT_ONCE, end - at))
            yield
