"""The disk of an image on its way into repositories: piece by piece, each read once, or not at all."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

import anyio
from anyio import to_thread

from tartlet.host.trouble import trouble_writing
from tartlet.image.format.layers import Region, content_digest, zero_layer
from tartlet.image.format.manifest import PIECE_DIGEST, Descriptor
from tartlet.image.format.source import DiskSource
from tartlet.image.progress import Counter
from tartlet.image.push.blobs import Destination, send_to_all
from tartlet.image.push.encode import encode_piece
from tartlet.image.push.known_images import KnownImage, KnownLayer, KnownLayers
from tartlet.image.push.plan import cuts_of, piece_size_for, regions
from tartlet.image.push.spool import Spool, spool_for
from tartlet.image.registry.bodies import BlobBytes
from tartlet.image.steps import outcome


async def push_disk(
    disk: DiskSource,
    destinations: Sequence[Destination],
    known: Sequence[KnownImage],
    counter: Counter,
    *,
    scratch: Path,
    at_once: int,
    piece_size: int,
) -> list[Descriptor]:
    """Have every piece of a disk in all destinations, and give its layers in order.

    The registries are busy with `at_once` pieces at the same time; one more is encoded meanwhile.
    `counter` counts bytes of the disk. Raises FileTrouble, OSError and what `Repository` raises, in groups.
    """
    size = piece_size_for(disk.size, piece_size)
    cuts = regions(disk.size, size, cuts_of([image.pieces for image in known]))
    flow = _Flow(disk, destinations, KnownLayers(known), counter, scratch, size, at_once)
    waiting = iter(cuts)
    side_by_side = min(at_once + 1, len(cuts))
    async with anyio.create_task_group() as tasks:
        for _ in range(side_by_side):
            tasks.start_soon(flow.work, waiting, side_by_side)
    return [layer for region in cuts for layer in flow.layers[region.offset]]


class _Flow:
    """A disk on its way."""

    def __init__(
        self,
        disk: DiskSource,
        destinations: Sequence[Destination],
        known: KnownLayers,
        counter: Counter,
        scratch: Path,
        piece_size: int,
        at_once: int,
    ) -> None:
        self._disk, self._destinations, self._known, self._counter = disk, destinations, known, counter
        self._scratch, self._piece_size = scratch, piece_size
        self._turns = anyio.Semaphore(at_once)
        """Whoever speaks with the registries has one."""
        self.layers: dict[int, list[Descriptor]] = {}
        """Of each region that is done, by its offset."""

    async def work(self, waiting: Iterator[Region], side_by_side: int) -> None:
        """Do one region after the other, as `side_by_side` do at the same time."""
        with spool_for(self._scratch, self._piece_size, side_by_side) as spool:
            for region in waiting:
                self.layers[region.offset] = await self._kept(region) or await self._encoded(region, spool)

    async def _kept(self, region: Region) -> list[Descriptor]:
        """The layer of another image that holds the region, when every repository has it now; else nothing."""
        async with self._turns:
            found = await self._known_layer(region)
            if found is None or not await self._obtained(found):
                return []
        self._counter.reuse(region.size)
        return [found.piece.blob]

    async def _known_layer(self, region: Region) -> KnownLayer | None:
        candidates: list[KnownLayer] = []
        for layer in self._known.at(region):
            if layer.image.untouched:
                if await to_thread.run_sync(layer.image.untouched, region):
                    return layer
            elif await self._can_have(layer):  # nothing is hashed for a layer that has to be sent
                candidates.append(layer)
        digest = await self._content_digest(region) if candidates else None
        return next((layer for layer in candidates if layer.piece.content_digest == digest), None)

    async def _can_have(self, layer: KnownLayer) -> bool:
        return all([await one.can_have(layer.piece.blob, layer.image.name) for one in self._destinations])

    async def _obtained(self, layer: KnownLayer) -> bool:
        return all([await one.obtained(layer.piece.blob, layer.image.name) for one in self._destinations])

    async def _content_digest(self, region: Region) -> str | None:
        zeros = await to_thread.run_sync(zero_layer, self._disk, region)
        if zeros is not None:
            return zeros.annotation(PIECE_DIGEST)
        return await outcome(content_digest(self._disk, region))

    async def _encoded(self, region: Region, spool: Spool) -> list[Descriptor]:
        """Encode a region and send what it comes to. A foreign piece larger than ours is cut into ours."""
        layers: list[Descriptor] = []
        for offset in range(region.offset, region.end, self._piece_size):
            part = Region(offset, min(self._piece_size, region.end - offset))
            layer, data = await self._coded(part, spool)
            share = _Share(part.size, layer.size, self._counter)
            async with self._turns:
                await send_to_all(self._destinations, layer, share.watched(data))
            share.finish()
            layers.append(layer)
        return layers

    async def _coded(self, region: Region, spool: Spool) -> tuple[Descriptor, BlobBytes]:
        try:
            return await encode_piece(self._disk, region, spool)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):  # reading does not fail for that
                raise trouble_writing(self._scratch, exc) from exc
            raise


class _Share:
    """What sending a blob means for the progress of the disk: its bytes count once, however often they are sent."""

    def __init__(self, plain: int, coded: int, counter: Counter) -> None:
        self._plain, self._coded, self._counter = plain, coded, counter
        self._sent = self._told = 0

    def watched(self, data: BlobBytes) -> BlobBytes:
        """The same bytes; what is read of them counts as sent."""

        async def parts(start: int, end: int) -> AsyncGenerator[bytes | memoryview]:
            at = start
            async for part in data(start, end):
                yield part
                at += len(part)
                self._reached(at)

        return parts

    def finish(self) -> None:
        """What was not sent did not have to be."""
        if self._sent:
            self._reached(self._coded)
        else:
            self._counter.reuse(self._plain)

    def _reached(self, at: int) -> None:
        self._sent = max(self._sent, at)
        now = self._plain * self._sent // self._coded
        if now > self._told:
            self._counter.move(now - self._told)
            self._told = now
