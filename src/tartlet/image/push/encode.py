"""One piece of a disk becomes a layer, a few MiB at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from anyio import to_thread

from tartlet.image.format.layers import PieceEncoder, Region, zero_blob, zero_layer
from tartlet.image.format.manifest import Descriptor
from tartlet.image.format.source import DiskSource
from tartlet.image.push.spool import Spool
from tartlet.image.registry.bodies import BlobBytes

_STEPS_A_TURN = 4
"""Steps of the encoder for each visit to a worker thread: some milliseconds, after which a cancelled task ends."""


async def encode_piece(source: DiskSource, region: Region, spool: Spool) -> tuple[Descriptor, BlobBytes]:
    """Turn a region of a disk into a layer and its bytes, which go to `spool` unless they are all zeros.

    The bytes can be read until `spool` takes the next ones. Raises FileTrouble, OSError.
    """
    zeros = await to_thread.run_sync(zero_layer, source, region)
    if zeros is not None:
        return zeros, from_zeros(region.size)
    encoder = PieceEncoder(source, region)
    await to_thread.run_sync(spool.clear)
    while await to_thread.run_sync(_turn, encoder, spool):
        pass
    return encoder.descriptor, spool.blob()


def _turn(encoder: PieceEncoder, spool: Spool) -> bool:
    parts = [part for part in (encoder.step() for _ in range(_STEPS_A_TURN)) if part]
    spool.add(parts)
    return bool(parts)


def from_zeros(size: int) -> BlobBytes:
    """The blob of a layer of `size` zero bytes."""

    async def parts(start: int, end: int) -> AsyncGenerator[bytes]:
        at = 0
        for part in zero_blob(size):
            wanted = part[max(0, start - at) : max(0, end - at)]
            at += len(part)
            if wanted:
                yield wanted

    return parts
