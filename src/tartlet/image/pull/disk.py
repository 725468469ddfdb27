"""The disk of an image while it is pulled: piece by piece, from this machine if possible, resumable at any moment."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import anyio
from anyio import to_thread

from tartlet.host.trouble import trouble_writing
from tartlet.image.format.layers import Region, content_digest, is_zero_content
from tartlet.image.format.layout import DiskFile, Piece
from tartlet.image.format.piece_writer import punch_hole
from tartlet.image.format.source import RawSource
from tartlet.image.progress import Counter
from tartlet.image.pull.fetch import fetch_piece
from tartlet.image.pull.journal import Journal
from tartlet.image.pull.reuse import LocalPieces, take
from tartlet.image.pull.work import WorkFolder
from tartlet.image.registry.registry import Repository
from tartlet.units import MIB

_LEAST_RATIO = 64
"""A blob that is not this much smaller than its piece holds more than zeros."""

_LARGEST_ZEROS = 1024 * MIB
"""Bytes of a piece that is looked at for that; nobody makes pieces of more than half of it."""

_T = TypeVar("_T")

_STEPS_A_TURN = 8
"""Steps of about a MiB for each visit to a worker thread: some milliseconds, after which a cancelled task ends."""


class DiskInProgress:
    """An open disk of which some pieces may be finished. Made by `disk_in_progress`."""

    def __init__(self, work: WorkFolder, disk: DiskFile, descriptor: int, journal: Journal, *, is_new: bool) -> None:
        self._work, self._pieces = work, disk.pieces
        self._descriptor, self._journal = descriptor, journal
        self._is_new = is_new
        self._zeros: frozenset[int] = frozenset()

    @property
    def room_needed(self) -> int:
        """Bytes that may still be written. Ask after `share`."""
        return sum(self._pieces[place].size for place in self._missing())

    async def look(self) -> None:
        """Find the zeros, and verify what was written before this machine was last started. Raises FileTrouble."""
        zeros = [place for place, piece in enumerate(self._pieces) if await to_thread.run_sync(_is_zeros, piece)]
        self._zeros = frozenset(zeros)
        if self._journal.is_trusted:
            return
        kept = {place for place in self._journal.done if place < len(self._pieces) and await self._is_right(place)}
        self._journal.restart(kept)

    async def share(self, local: LocalPieces, counter: Counter, at_once: int) -> None:
        """Finish, verified, the pieces that take no room: zeros, and what the file system shares with other disks.

        `at_once` go side by side. Raises FileTrouble, in a group.
        """
        counter.reuse(sum(self._pieces[place].blob.size for place in self._journal.done))
        await self._side_by_side(partial(self._share, local=local, counter=counter), at_once)

    async def complete(self, repository: Repository, local: LocalPieces, counter: Counter, at_once: int) -> None:
        """Write, verify and note every missing piece, `at_once` side by side, and have all of it on the medium.

        Raises FileTrouble, and in a group what `fetch_piece` raises.
        """
        await self._side_by_side(partial(self._finish, repository=repository, local=local, counter=counter), at_once)
        await to_thread.run_sync(self._sync)

    async def _side_by_side(self, do: Callable[[int], Awaitable[None]], at_once: int) -> None:
        missing = iter(self._missing())

        async def work() -> None:
            for place in missing:
                await do(place)

        async with anyio.create_task_group() as tasks:
            for _ in range(at_once):
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

    async def _finish(self, place: int, repository: Repository, local: LocalPieces, counter: Counter) -> None:
        piece = self._pieces[place]
        if await self._taken(piece, local, may_copy=True):
            counter.reuse(piece.blob.size)
        else:
            await fetch_piece(
                repository,
                piece,
                self._descriptor,
                self._work.disk_path,
                reads_as_zeros=self._is_new,
                progress=counter.move,
            )
        self._note(place)

    def _note(self, place: int) -> None:
        self._journal.add(place)
        self._work.sign_of_life()

    async def _taken(self, piece: Piece, local: LocalPieces, *, may_copy: bool) -> bool:
        for whereabouts in local.of(piece):
            if not self._is_new:
                await to_thread.run_sync(self._clear, piece)
            steps = take(piece, whereabouts, self._descriptor, self._work.disk_path, may_copy=may_copy)
            if await _last(steps):
                return True
        return False

    async def _is_right(self, place: int) -> bool:
        piece = self._pieces[place]
        source = RawSource(self._descriptor, self._work.disk_path)
        return await _last(content_digest(source, Region(piece.offset, piece.size))) == piece.content_digest

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
async def disk_in_progress(work: WorkFolder, disk: DiskFile) -> AsyncGenerator[DiskInProgress]:
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
            in_progress = DiskInProgress(work, disk, descriptor, journal, is_new=is_new)
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


def _is_zeros(piece: Piece) -> bool:
    """Whether a piece is nothing but zeros. Hashes as many once for each size, half a second for the largest."""
    may_be = piece.blob.size * _LEAST_RATIO <= piece.size <= _LARGEST_ZEROS
    return may_be and is_zero_content(piece.content_digest, piece.size)


async def _last(steps: Iterator[_T | None]) -> _T | None:
    """Run blocking steps in worker threads, a few at a time, and give what the last one gives."""

    def turn() -> tuple[bool, _T | None]:
        value: _T | None = None
        for _ in range(_STEPS_A_TURN):
            try:
                value = next(steps)
            except StopIteration:
                return True, value
            if value is not None:
                return True, value
        return False, None

    is_over, value = False, None
    while not is_over:
        is_over, value = await to_thread.run_sync(turn)
    return value
