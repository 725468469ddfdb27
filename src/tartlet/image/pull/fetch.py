"""One piece of a disk on its way from a registry: the network, the decoder and the disk work at the same time.

Memory: a few parts of a MiB on the way, whatever the size of the piece.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, suppress

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from tartlet.image.format.layout import Piece
from tartlet.image.format.manifest import Descriptor
from tartlet.image.format.piece_writer import CorruptBlob, PieceWriter
from tartlet.image.registry.registry import Repository

Progress = Callable[[int], None]
"""Told the bytes of the blob that came since the last time."""

_ON_THE_WAY = 4
"""Parts that wait between the network and the decoder."""


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
    sending, receiving = anyio.create_memory_object_stream[bytes](_ON_THE_WAY)
    # In this order: whoever sends is stopped before it finds out that nobody receives, so only the cause is raised.
    async with receiving, anyio.create_task_group() as tasks:
        tasks.start_soon(_send, repository, blob, sending)
        try:
            async for part in receiving:
                parts = [part, *_waiting(receiving)]
                progress(sum(map(len, parts)))
                await to_thread.run_sync(_feed, writer, parts)
            await to_thread.run_sync(writer.finish)
        except CorruptBlob as exc:
            tasks.cancel_scope.cancel()
            return exc
    return None


def _waiting(receiving: MemoryObjectReceiveStream[bytes]) -> Iterator[bytes]:
    """What came meanwhile: on a busy machine every visit to a worker thread has to wait for its turn."""
    with suppress(anyio.WouldBlock, anyio.EndOfStream):
        while True:
            yield receiving.receive_nowait()


def _feed(writer: PieceWriter, parts: Sequence[bytes]) -> None:
    for part in parts:
        writer.feed(part)


async def _send(repository: Repository, blob: Descriptor, sending: MemoryObjectSendStream[bytes]) -> None:
    async with sending, aclosing(repository.stream_blob(blob)) as parts:
        async for part in parts:
            await sending.send(part)
