"""One piece of a disk on its way from a registry: the network, the decoder and the disk work at the same time.

Memory: some parts of a few MiB on the way, whatever the size of the piece.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import aclosing

from anyio import to_thread

from tartlet.image.format.layout import Piece
from tartlet.image.format.manifest import Descriptor
from tartlet.image.format.piece_writer import CorruptBlob, PieceWriter
from tartlet.image.registry.receive import Parts
from tartlet.image.registry.registry import Repository

Progress = Callable[[int], None]
"""Told the bytes of the blob that came since the last time."""


def _ignored(count: int) -> None:
    """Nobody wants to know."""
    del count


async def fetch_piece(
    repository: Repository,
    piece: Piece,
    descriptor: int,
    path: str | os.PathLike[str],
    *,
    reads_as_zeros: bool,
    progress: Progress = _ignored,
) -> int:
    """Download a piece into its region of the disk open for writing as `descriptor`; returns the bytes written.

    `reads_as_zeros`: nothing was ever written to the region. A blob that turns out damaged is fetched once more.
    Raises CorruptBlob, FileTrouble, and in a group what `Repository` raises.
    """
    writer = PieceWriter(piece, descriptor, path)
    damage = None
    if not reads_as_zeros:
        await to_thread.run_sync(writer.clear)
    for _ in range(2):
        damage = await _received(repository, piece.blob, writer, progress)
        if damage is None:
            return writer.written
        progress(-writer.received)
        writer = PieceWriter(piece, descriptor, path)
        await to_thread.run_sync(writer.clear)
    raise damage or RuntimeError


async def _received(
    repository: Repository, blob: Descriptor, writer: PieceWriter, progress: Progress
) -> CorruptBlob | None:
    """Take in a whole blob; what is wrong with it, if something is."""
    async with aclosing(repository.stream_blob(blob)) as body:
        try:
            async for parts in body:
                try:
                    await to_thread.run_sync(_feed, writer, parts)
                finally:
                    progress(parts.size)
            await to_thread.run_sync(writer.finish)
        except CorruptBlob as exc:
            return exc
    return None


def _feed(writer: PieceWriter, parts: Parts) -> None:
    for part in parts:
        writer.feed(part)
