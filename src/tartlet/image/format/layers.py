"""A disk as layers: cut into pieces, each compressed on its own, with zeros neither read nor coded.

Everything here computes and blocks: it belongs into worker threads, in steps short enough that a cancelled caller
does not wait. Hashing, coding and file work all release Python's global lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tartlet.image.format.lz4_stream import BLOCK, END, ZERO_BLOCK, encode_blocks, encoded_zero_block
from tartlet.image.format.manifest import Descriptor, piece_descriptor
from tartlet.image.format.source import DiskSource

_UNIT = 1024 * 1024
"""Bytes of data that one step reads and codes at most."""

_ZEROS = bytes(_UNIT)
_ZERO_RUN = 64 * _UNIT
"""Zero bytes that one step takes at most: only hashing costs anything there."""


@dataclass(frozen=True, slots=True)
class Region:
    """A range of a disk, in bytes."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.size


def cut(size: int, piece_size: int) -> list[Region]:
    """A disk of `size` bytes as regions of `piece_size`, the last one being what is left."""
    return [Region(offset, min(piece_size, size - offset)) for offset in range(0, size, piece_size)]


class PieceEncoder:
    """Turns one region of a disk into a layer, step by step.

    The bytes of all steps together are the blob; after the last one `descriptor` tells about it. Memory: about two
    MiB, whatever the size of the region.
    """

    def __init__(self, source: DiskSource, region: Region) -> None:
        self._source, self._region = source, region
        self._spans = _spans(source, region)
        self._plain, self._coded = hashlib.sha256(), hashlib.sha256()
        self._coded_size = 0
        self._descriptor: Descriptor | None = None

    @property
    def descriptor(self) -> Descriptor:
        """The finished layer. Raises RuntimeError before the last step."""
        if self._descriptor is None:
            raise RuntimeError("the piece is not encoded yet")
        return self._descriptor

    def step(self) -> bytes:
        """The next bytes of the blob; empty when it is complete. Raises OSError, FileTrouble."""
        if self._descriptor is not None:
            return b""
        span = next(self._spans, None)
        coded = END if span is None else self._encoded(*span)
        self._coded.update(coded)
        self._coded_size += len(coded)
        if span is None:
            self._descriptor = piece_descriptor(
                digest=f"sha256:{self._coded.hexdigest()}",
                size=self._coded_size,
                content_digest=f"sha256:{self._plain.hexdigest()}",
                content_size=self._region.size,
            )
        return coded

    def _encoded(self, start: int, end: int, has_data: bool) -> bytes:
        if not has_data:
            _hash_zeros(self._plain, end - start)
            return _coded_zeros(end - start)
        data = self._source.read(start, end - start)
        self._plain.update(data)
        return b"".join(encode_blocks(data))


def zero_layer(source: DiskSource, region: Region) -> Descriptor | None:
    """The layer of a region that the disk has no data in, or None. Its blob is `zero_blob(region.size)`."""
    if next(source.data(region.offset, region.end), None) is not None:
        return None
    return _zero_layer(region.size)


def zero_blob(size: int) -> Iterator[bytes]:
    """The blob of a layer of `size` zero bytes, in parts."""
    for done in range(0, size, _ZERO_RUN):
        yield _coded_zeros(min(_ZERO_RUN, size - done))
    yield END


def is_zero_content(content_digest: str, size: int) -> bool:
    """Whether a digest is that of `size` zero bytes. Hashes as many once for each size, 0.3 s for 512 MiB."""
    return content_digest == _zero_digest(size)


def content_digest(source: DiskSource, region: Region) -> Iterator[str | None]:
    """Hash a region of a disk without coding it: None after each step, its content digest at the end.

    Raises OSError, FileTrouble.
    """
    plain = hashlib.sha256()
    for start, end, has_data in _spans(source, region):
        if has_data:
            plain.update(source.read(start, end - start))
        else:
            _hash_zeros(plain, end - start)
        yield None
    yield f"sha256:{plain.hexdigest()}"


def _spans(source: DiskSource, region: Region) -> Iterator[tuple[int, int, bool]]:
    """The region in steps: start, end, whether there may be data. All but the last end on a block of the layer."""
    at = region.offset
    for start, end in source.data(region.offset, region.end):
        first = max(at, region.offset + (start - region.offset) // BLOCK * BLOCK)
        last = min(region.end, region.offset - (region.offset - end) // BLOCK * BLOCK)
        yield from _in_steps(at, first, _ZERO_RUN, has_data=False)
        yield from _in_steps(first, last, _UNIT, has_data=True)
        at = max(at, last)
    yield from _in_steps(at, region.end, _ZERO_RUN, has_data=False)


def _in_steps(start: int, end: int, step: int, *, has_data: bool) -> Iterator[tuple[int, int, bool]]:
    return ((at, min(at + step, end), has_data) for at in range(start, end, step))


def _coded_zeros(size: int) -> bytes:
    full, rest = divmod(size, BLOCK)
    return b"".join((encoded_zero_block() * full, *encode_blocks(ZERO_BLOCK[:rest])))


def _hash_zeros(plain: hashlib._Hash, size: int) -> None:
    view = memoryview(_ZEROS)
    for done in range(0, size, _UNIT):
        plain.update(view[: size - done])


@lru_cache(maxsize=64)
def _zero_digest(size: int) -> str:
    plain = hashlib.sha256()
    _hash_zeros(plain, size)
    return f"sha256:{plain.hexdigest()}"


@lru_cache(maxsize=64)
def _zero_layer(size: int) -> Descriptor:
    coded, coded_size = hashlib.sha256(), 0
    for part in zero_blob(size):
        coded.update(part)
        coded_size += len(part)
    return piece_descriptor(
        digest=f"sha256:{coded.hexdigest()}", size=coded_size, content_digest=_zero_digest(size), content_size=size
    )
