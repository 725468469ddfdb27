"""The outside of an archive: a stream cut into blocks that are compressed one by one, by several threads.

    offset 0   `pbz` and a letter for the coding; u64 size of a block
    then, until the end: u64 plain size, u64 stored size, payload; stored plainly when both are equal

All numbers are big-endian. A file that begins with an entry is such a stream without a container.

Blocks of zeros, of which disks mostly consist, are neither compressed nor looked into: their form is known.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

from tartlet.archive.codecs import Decode, decoder, encoded
from tartlet.archive.errors import BadArchive

BLOCK = 4 * 1024 * 1024
"""Bytes of a block in archives made here; what Apple's programs make too."""

_LARGEST_BLOCK = 64 * 1024 * 1024
"""Bytes of memory that each of several blocks at once may ask for."""

_MAGIC = b"pbz"
ENTRY_MAGICS = (b"AA01", b"YAA1")
_START = struct.Struct(">3sBQ")
_SIZES = struct.Struct(">QQ")
_THREADS = min(4, os.cpu_count() or 1)
_AHEAD = 2 * _THREADS
"""Blocks under way at once."""

_ZEROS = bytes(BLOCK)
_LONGEST_ZERO_FORM = 16 * 1024
"""Bytes of a payload that is remembered when it turned out to be all zeros."""


@dataclass(frozen=True, slots=True)
class Zeros:
    """So many zero bytes."""

    size: int


Chunk = bytes | Zeros
"""A part of a stream."""


class ContainerWriter:
    """Takes a stream chunk by chunk; made by `written`."""

    def __init__(self, write: Callable[[bytes], object], pool: ThreadPoolExecutor) -> None:
        self._write, self._pool = write, pool
        self._part = bytearray()
        self._under_way: deque[Future[bytes]] = deque()

    def add(self, chunk: Chunk) -> None:
        """Append to the stream. Raises what writing raises."""
        if isinstance(chunk, bytes):
            self._part += chunk
        else:
            self._add_zeros(chunk.size)
        while len(self._part) >= BLOCK:
            block = bytes(memoryview(self._part)[:BLOCK])
            del self._part[:BLOCK]
            self._send(self._pool.submit(_stored, block))

    def _add_zeros(self, size: int) -> None:
        first = min(size, -len(self._part) % BLOCK)
        self._part += bytes(first)
        whole, rest = divmod(size - first, BLOCK)
        if whole and self._part:
            self.add(b"")
        for _ in range(whole):
            self._send(self._pool.submit(_stored_zeros))
        self._part += bytes(rest)

    def _send(self, block: Future[bytes]) -> None:
        self._under_way.append(block)
        while len(self._under_way) > _AHEAD:
            self._write(self._under_way.popleft().result())

    def finish(self) -> None:
        """Write what is left."""
        if self._part:
            self._under_way.append(self._pool.submit(_stored, bytes(self._part)))
            self._part.clear()
        while self._under_way:
            self._write(self._under_way.popleft().result())


@contextmanager
def written(write: Callable[[bytes], object]) -> Generator[ContainerWriter]:
    """A container whose bytes go to `write`; complete when the block ends well."""
    write(_START.pack(_MAGIC, ord("e"), BLOCK))
    with _threads() as pool:
        writer = ContainerWriter(write, pool)
        yield writer
        writer.finish()


@contextmanager
def read(file: BinaryIO) -> Generator[Iterator[Chunk]]:
    """The stream in a file, with or without a container, for the length of the block. Raises BadArchive, OSError."""
    start = file.read(4)
    if start in ENTRY_MAGICS:
        yield _plain(start, file)
        return
    if start[:3] != _MAGIC:
        raise BadArchive("it does not begin like an Apple Archive", "`tart export` makes the files that are understood")
    head = start + file.read(_START.size - 4)
    if len(head) < _START.size:
        raise BadArchive("it ends in its first bytes")
    _, letter, largest = _START.unpack(head)
    if not 0 < largest <= _LARGEST_BLOCK:
        raise BadArchive(f"its blocks have {largest} bytes each")
    with _threads() as pool:
        yield _decoded(_payloads(file, largest), decoder(letter), pool)


def _plain(start: bytes, file: BinaryIO) -> Iterator[Chunk]:
    yield start
    while part := file.read(BLOCK):
        yield Zeros(len(part)) if _ZEROS.startswith(part) else part


def _payloads(file: BinaryIO, largest: int) -> Iterator[tuple[int, bytes]]:
    """The plain size of each block, and what is stored of it."""
    while head := file.read(_SIZES.size):
        if len(head) < _SIZES.size:
            raise BadArchive("it ends in the middle of a block")
        plain, stored = _SIZES.unpack(head)
        if not 0 < plain <= largest or not 0 < stored <= largest:
            raise BadArchive(f"a block claims to have {plain} bytes, stored as {stored}")
        payload = file.read(stored)
        if len(payload) < stored:
            raise BadArchive("it ends in the middle of a block")
        yield plain, payload


def _decoded(payloads: Iterator[tuple[int, bytes]], decode: Decode, pool: ThreadPoolExecutor) -> Iterator[Chunk]:
    under_way: deque[Future[Chunk]] = deque()
    zero_forms: dict[bytes, int] = {}

    def block(plain: int, payload: bytes) -> Chunk:
        if zero_forms.get(payload) == plain:
            return Zeros(plain)
        data = payload if len(payload) == plain else decode(payload, plain)
        if len(data) != plain:
            raise BadArchive("a block is damaged")
        if not _is_zero(data):
            return data
        if len(payload) <= _LONGEST_ZERO_FORM and len(zero_forms) < _AHEAD:
            zero_forms[payload] = plain
        return Zeros(plain)

    for plain, payload in payloads:
        under_way.append(pool.submit(block, plain, payload))
        if len(under_way) > _AHEAD:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


@contextmanager
def _threads() -> Generator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _stored(block: bytes) -> bytes:
    """A block as it stands in the file."""
    payload = encoded(block)
    if len(payload) >= len(block):
        payload = block
    return _SIZES.pack(len(block), len(payload)) + payload


@cache
def _stored_zeros() -> bytes:
    return _stored(_ZEROS)


def _is_zero(data: bytes) -> bool:
    return data == _ZEROS if len(data) == BLOCK else not any(memoryview(data)[:64]) and data.count(0) == len(data)
