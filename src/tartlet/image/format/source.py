"""What a guest sees of a disk, for reading: where there is data, and the data."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Protocol

from tartlet.errors import FileTrouble


class DiskSource(Protocol):
    """The flat content of a disk. Its methods block, and may be called from several threads at the same time."""

    @property
    def size(self) -> int:
        """Bytes the guest sees."""
        ...

    def data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges between `start` and `end` that may hold something else than zeros, in order. Raises OSError."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset` on. Raises OSError, FileTrouble when the disk ends before."""
        ...


class RawSource:
    """A raw disk file; holes are found by asking the file system and are never read.

    Nobody makes holes in it meanwhile: the data found last is remembered, because some file systems (tmpfs) look at
    every page up to the next hole, which a disk asked about piece by piece would cost once for each piece.
    """

    def __init__(self, descriptor: int, path: str | os.PathLike[str]) -> None:
        self._descriptor, self._path = descriptor, path
        self._size = os.lseek(descriptor, 0, os.SEEK_END)  # a block device has no other
        self._found = (0, 0)

    @property
    def size(self) -> int:
        return self._size

    def data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        end = min(end, self._size)
        while start < end:
            start, stop = self._data_from(start)
            if start < end:
                yield start, min(stop, end)
            start = stop

    def _data_from(self, at: int) -> tuple[int, int]:
        """The first data from `at` on: where it begins and ends. Both are the end of the disk if there is none."""
        first, last = self._found
        if not first <= at < last:
            try:
                first = os.lseek(self._descriptor, at, os.SEEK_DATA)
                last = os.lseek(self._descriptor, first, os.SEEK_HOLE)
            except OSError as exc:
                if exc.errno == errno.ENXIO:  # a hole until the end
                    return self._size, self._size
                if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                first, last = at, self._size  # some network file systems know no holes
            self._found = first, last
        return max(first, at), last

    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        while len(data) < length:
            more = os.pread(self._descriptor, length - len(data), offset + len(data))
            if not more:
                raise FileTrouble("cannot read", os.fspath(self._path), OSError(errno.EIO, "the disk became shorter"))
            data += more
        return data


@contextmanager
def raw_disk(path: str | os.PathLike[str]) -> Generator[RawSource]:
    """The raw disk file `path`, open for the length of the block. Raises FileTrouble."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise FileTrouble("cannot read", os.fspath(path), exc) from exc
    try:
        yield RawSource(descriptor, path)
    finally:
        os.close(descriptor)
