"""The disk of an image while it is pulled: piece by piece, from this machine if possible, resumable at any moment."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio import to_thread

from tartlet.host.locks import number_lock
from tartlet.host.trouble import trouble_writing
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.layers import Region, content_digest, is_zero_content
from tartlet.image.format.layout import DiskFile, Piece
from tartlet.image.format.piece_writer import punch_hole
from tartlet.image.format.source import RawSource
from tartlet.image.progress import Counter
from tartlet.image.pull.fetch import fetch_piece
from tartlet.image.pull.growing import GrowingDisks, PiecesByContent
from tartlet.image.pull.journal import Journal
from tartlet.image.pull.reuse import LocalPieces, Whereabouts, take
from tartlet.image.pull.work import WorkFolder
from tartlet.image.registry.registry import Repository
from tartlet.image.steps import outcome
from tartlet.units import MIB

_LEAST_RATIO = 64
"""A blob that is not this much smaller than its piece holds more than zeros."""

_LARGEST_ZEROS = 1024 * MIB
"""Bytes of a piece that is looked at for that; nobody makes pieces of more than half of it."""

_POLL = 0.2
"""Seconds between two looks at a piece that another pull is fetching."""

_LEAST_PATIENCE = 1.0
"""Seconds that such a piece is waited for in any case."""

_SLOWEST = 2_000_000
"""Bytes a second that the other is expected to fetch as long as this pull has fetched nothing that tells more."""


class DiskInProgress:
    """An open disk of which some pieces may be finished. Made by `disk_in_progress`."""

    def __init__(
        self, cache: ImageCache, work: WorkFolder, disk: DiskFile, descriptor: int, journal: Journal, *, is_new: bool
    ) -> None:
        self._work, self._pieces, self._own = work, disk.pieces, PiecesByContent(disk)
        self._descriptor, self._journal = descriptor, journal
        self._is_new = is_new
        self._zeros: frozenset[int] = frozenset()
        self._growing, self._lock = GrowingDisks(cache, work.path), cache.pieces_lock
        self._longest: float | None = None
        """Seconds that a piece of this pull has taken at most."""

    @property
    def room_needed(self) -> int:
        """Bytes that may still be written. Ask after `share`."""
        return sum(self._pieces[place].size for place in self._missing())

    async def look(self) -> None:
        """Find the zeros, and verify what was written before this machine was last started. Raises FileTrouble."""
        self._zeros = await outcome(_zeros(self._pieces)) or frozenset()
        known = self._journal.done.intersection(range(len(self._pieces)))
        if self._journal.is_trusted and known == self._journal.done:
            return
        self._journal.restart({place for place in known if await self._is_right(place)})

    async def share(self, local: LocalPieces, counter: Counter, at_once: int) -> None:
        """Finish, verified, the pieces that take no room: zeros, and what the file system shares with other disks.

        `at_once` go side by side. Raises FileTrouble, in a group.
        """
        counter.reuse(sum(self._pieces[place].blob.size for place in self._journal.done))
        missing = iter(self._missing())

        async def work() -> None:
            for place in missing:
                await self._share(place, local, counter)

        await self._side_by_side(work, at_once)

    async def complete(self, repository: Repository, local: LocalPieces, counter: Counter, at_once: int) -> None:
        """Write, verify and note every missing piece, `at_once` side by side, and have all of it on the medium.

        A piece that another pull is fetching is put off until that one has it, but no longer than fetching takes.
        Raises FileTrouble, and in a group what `fetch_piece` raises.
        """
        waiting = deque(self._missing())
        put_off: dict[int, float] = {}
        """Until when."""

        async def work() -> None:
            while waiting:
                place = waiting.popleft()
                patient = anyio.current_time() < put_off.get(place, math.inf)
                if await self._finish(place, repository, local, counter, patient=patient):
                    continue
                if place in put_off:
                    await anyio.sleep(_POLL)
                put_off.setdefault(place, anyio.current_time() + self._patience(place))
                waiting.append(place)

        await self._side_by_side(work, at_once)
        await to_thread.run_sync(self._sync)

    async def _side_by_side(self, work: Callable[[], Coroutine[Any, Any, None]], at_once: int) -> None:
        """Let as many do the same until nothing is left, but no more than there are pieces."""
        async with anyio.create_task_group() as tasks:
            for _ in range(min(at_once, len(self._missing()))):
                tasks.start_soon(work)

    def _missing(self) -> list[int]:
        return [place for place in range(len(self._pieces)) if place not in self._journal.done]

    async def _share(self, place: int, local: LocalPieces, counter: Counter) -> None:
        piece = self._pieces[place]
        if place in self._zeros:
            if not self._is_new:
                await to_thread.run_sync(self._clear, piece)
        elif not await self._taken(piece, local, may_copy=False):
            return
        self._note(place)
        counter.reuse(piece.blob.size)

    async def _finish(
        self, place: int, repository: Repository, local: LocalPieces, counter: Counter, *, patient: bool
    ) -> bool:
        """Write a piece. False when another pull is fetching it, if one is `patient`."""
        piece = self._pieces[place]
        with number_lock(self._lock, int(piece.content_digest[-15:], 16)) as alone:
            if await self._taken(piece, local, may_copy=True):
                counter.reuse(piece.blob.size)
            elif alone or not patient:
                await self._fetch(piece, repository, counter)
            else:
                return False
            self._note(place)
        return True

    async def _fetch(self, piece: Piece, repository: Repository, counter: Counter) -> None:
        began, zeros = anyio.current_time(), self._is_new
        path, tell = self._work.disk_path, counter.move
        await fetch_piece(repository, piece, self._descriptor, path, reads_as_zeros=zeros, progress=tell)
        self._longest = max(self._longest or 0, anyio.current_time() - began)

    def _patience(self, place: int) -> float:
        """Seconds to wait for another pull that fetches a piece: twice as long as it would take here."""
        longest = self._pieces[place].blob.size / _SLOWEST if self._longest is None else self._longest
        return max(_LEAST_PATIENCE, 2 * longest)

    def _note(self, place: int) -> None:
        self._journal.add(place)
        self._work.sign_of_life()

    async def _taken(self, piece: Piece, local: LocalPieces, *, may_copy: bool) -> bool:
        """Take a piece from wherever on this machine it is now: finished disks first, then those that still grow."""
        if await self._taken_from([*local.of(piece), *self._finished_here(piece)], piece, may_copy):
            return True
        growing = await to_thread.run_sync(self._growing.of, piece)
        return await self._taken_from(growing, piece, may_copy)

    async def _taken_from(self, places: Iterable[Whereabouts], piece: Piece, may_copy: bool) -> bool:
        for whereabouts in places:
            if not self._is_new:
                await to_thread.run_sync(self._clear, piece)
            if await outcome(take(piece, whereabouts, self._descriptor, self._work.disk_path, may_copy=may_copy)):
                return True
        return False

    def _finished_here(self, piece: Piece) -> list[Whereabouts]:
        """Images have pieces with the same content, too."""
        places = self._own.places(piece)
        return [Whereabouts(self._work.disk_path, offset) for place, offset in places if place in self._journal.done]

    async def _is_right(self, place: int) -> bool:
        piece = self._pieces[place]
        source = RawSource(self._descriptor, self._work.disk_path)
        return await outcome(content_digest(source, Region(piece.offset, piece.size))) == piece.content_digest

    def _clear(self, piece: Piece) -> None:
        try:
            punch_hole(self._descriptor, piece.offset, piece.size)
        except OSError as exc:
            raise trouble_writing(self._work.disk_path, exc) from exc

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as exc:
            raise trouble_writing(self._work.disk_path, exc) from exc


@asynccontextmanager
async def disk_in_progress(cache: ImageCache, work: WorkFolder, disk: DiskFile) -> AsyncGenerator[DiskInProgress]:
    """The disk in a work folder, new or as an earlier pull left it, open for the length of the block.

    Raises FileTrouble.
    """
    path = work.disk_path
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise trouble_writing(path, exc) from exc
    try:
        is_new = _sized(descriptor, disk.size)
        journal = Journal(work.journal_path, descriptor)
        if is_new:
            journal.restart(set())
        try:
            in_progress = DiskInProgress(cache, work, disk, descriptor, journal, is_new=is_new)
            await in_progress.look()
            yield in_progress
        finally:
            journal.close()
    except OSError as exc:
        raise trouble_writing(path, exc) from exc
    finally:
        os.close(descriptor)


def _sized(descriptor: int, size: int) -> bool:
    """Give the file its length; whether it reads as zeros everywhere."""
    is_new = os.fstat(descriptor).st_size != size
    if is_new:
        os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, size)
    return is_new


def _zeros(pieces: Sequence[Piece]) -> Iterator[frozenset[int] | None]:
    """Which are nothing but zeros, in steps. Hashes as many once for each size, half a second for the largest."""
    found: set[int] = set()
    for place, piece in enumerate(pieces):
        if piece.blob.size * _LEAST_RATIO <= piece.size <= _LARGEST_ZEROS:
            if is_zero_content(piece.content_digest, piece.size):
                found.add(place)
            yield None
    yield frozenset(found)
