"""Disks that other pulls of this machine are putting together at this moment, or were interrupted in.

Their finished pieces are found in their journals when one is needed. Nobody tells anybody anything, so a pull that is
killed leaves nothing behind that another waits for.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from tartlet.errors import FileTrouble, UserError
from tartlet.host.scratch import is_resumable
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.layout import DiskFile, Piece, flat_layout
from tartlet.image.format.manifest import read_manifest
from tartlet.image.pull.journal import noted
from tartlet.image.pull.reuse import Whereabouts
from tartlet.image.pull.work import WorkFiles

log = logging.getLogger(__name__)


class PiecesByContent:
    """The pieces of one disk by what they hold, some of which are finished."""

    def __init__(self, disk: DiskFile) -> None:
        self._found: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for place, piece in enumerate(disk.pieces):
            self._found.setdefault((piece.content_digest, piece.size), []).append((place, piece.offset))

    def places(self, piece: Piece) -> list[tuple[int, int]]:
        """Where the content of a piece is or will be: numbers of pieces, and their offsets."""
        return self._found.get((piece.content_digest, piece.size), [])


@dataclass(frozen=True, slots=True)
class _Growing:
    """A work folder of another pull."""

    files: WorkFiles
    pieces: PiecesByContent

    def of(self, piece: Piece) -> list[Whereabouts]:
        places = self.pieces.places(piece)
        try:
            done = noted(self.files.journal_path) if places else set[int]()
        except FileTrouble as exc:
            log.debug("nothing of %s can be used: %s", self.files.path, exc)
            return []
        return [Whereabouts(self.files.disk_path, offset) for place, offset in places if place in done]


class GrowingDisks:
    """All disks in work folders but one's own, and those that have become images since they were first seen."""

    def __init__(self, cache: ImageCache, own: Path) -> None:
        self._cache, self._own = cache, own
        self._growing: dict[str, _Growing] = {}
        self._grown: dict[Path, PiecesByContent] = {}

    def of(self, piece: Piece) -> list[Whereabouts]:
        """Where the content of a piece may be at this moment. Blocks, in any thread. Raises OSError."""
        self._look()
        found = [whereabouts for one in list(self._growing.values()) for whereabouts in one.of(piece)]
        for path, pieces in list(self._grown.items()):
            found += [Whereabouts(path, offset) for _, offset in pieces.places(piece)]
        return found

    def _look(self) -> None:
        names = {name for name in os.listdir(self._own.parent) if is_resumable(name)} - {self._own.name}
        for name in names.difference(self._growing):
            self._add(name)
        for name in set(self._growing).difference(names):
            gone = self._growing.pop(name, None)
            images = (image for image in self._cache.images() if image.digest.startswith(f"sha256:{name}"))
            if gone and (image := next(images, None)):
                self._grown[image.disk_path] = gone.pieces

    def _add(self, name: str) -> None:
        files = WorkFiles(self._own.with_name(name))
        try:
            disk = flat_layout(read_manifest(files.manifest_path.read_bytes()), name).base
        except (OSError, UserError) as exc:  # it has only begun, or was removed
            log.debug("nothing of %s can be used: %s", files.path, exc)
        else:
            self._growing[name] = _Growing(files, PiecesByContent(disk))
