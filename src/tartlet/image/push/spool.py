"""Where a coded piece waits between its coding, which gives its digest, and its sending, which begins with it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tartlet.host.files import write_at
from tartlet.image.registry.bodies import BlobBytes, from_file
from tartlet.units import MIB

_MOST_IN_MEMORY = 160 * MIB
"""Of all pieces together that are on their way at the same time; larger ones go through files."""


class Spool(Protocol):
    """Holds one piece at a time."""

    def clear(self) -> None:
        """Forget the piece before. Blocks; raises OSError."""
        ...

    def add(self, parts: Sequence[bytes]) -> None:
        """Put more behind what is there. Blocks; raises OSError."""
        ...

    def blob(self) -> BlobBytes:
        """What is there, to be read until `clear`."""
        ...


class MemorySpool:
    """In memory: nothing is copied, and the disk has nothing to write."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def clear(self) -> None:
        self._parts = []

    def add(self, parts: Sequence[bytes]) -> None:
        self._parts += parts

    def blob(self) -> BlobBytes:
        kept = self._parts

        async def parts(start: int, end: int) -> AsyncGenerator[memoryview]:
            at = 0
            for part in kept:
                wanted = memoryview(part)[max(0, start - at) : max(0, end - at)]
                at += len(part)
                if wanted:
                    yield wanted

        return parts


class FileSpool:
    """In an open file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._size = descriptor, 0

    def clear(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self._size = 0

    def add(self, parts: Sequence[bytes | memoryview]) -> None:
        data = b"".join(parts)
        write_at(self._descriptor, data, self._size)
        self._size += len(data)

    def blob(self) -> BlobBytes:
        return from_file(self._descriptor)


@contextmanager
def spool_for(scratch: Path, piece_size: int, at_once: int) -> Generator[Spool]:
    """A spool for the length of the block: one of `at_once`, for pieces of up to `piece_size` bytes.

    In memory if all together are small enough, else in a nameless file in `scratch`. Raises OSError.
    """
    if piece_size * at_once <= _MOST_IN_MEMORY:
        yield MemorySpool()
        return
    with tempfile.TemporaryFile(dir=scratch, buffering=0) as file:
        yield FileSpool(file.fileno())
