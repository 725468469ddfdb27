"""Reading the archive of a VM: only the files a VM has, with plain names, never more than they may hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from tartlet.archive.container import Chunk, Zeros, read
from tartlet.archive.entries import Header, header_length, parsed
from tartlet.archive.errors import BadArchive
from tartlet.host.files import write_at
from tartlet.host.trouble import trouble_writing

_START = 6
"""Bytes of a header's beginning, which tell its length."""

_GRAIN = 64 * 1024
"""Bytes of zeros that become a hole."""

_ZEROS = bytes(_GRAIN)
_PASSED_OVER = "DFSM"
"""Kinds of entries of which those that are not wanted are passed over: folders, files, sockets, remarks."""


class StackedArchive(BadArchive):
    """The archive of a VM whose disk only a Mac can put together."""

    def __init__(self) -> None:
        super().__init__("it holds a stacked disk, which needs macOS 27", "export a VM with a flat disk there")


def unpack(file: BinaryIO, folder: Path, wanted: Mapping[str, int]) -> set[str]:
    """Make the `wanted` files of an archive in `folder`, holes where there are zeros; gives the names of those found.

    `wanted` tells how many bytes each may have at most. Other files are passed over; links, devices, paths that lead
    anywhere else and stacked disks are refused before anything of theirs is written. Raises BadArchive, NoSpace,
    FileTrouble, OSError.
    """
    found: set[str] = set()
    with read(file) as chunks:
        stream = _Stream(chunks)
        while start := stream.exactly(_START, may_end=True):
            header = parsed(stream.exactly(header_length(start) - _START))
            name = _checked(header)
            if name in found:
                raise BadArchive(f"it holds {name} twice")
            for key, size in header.blobs:
                if key == "DAT" and header.kind == "F" and name in wanted:
                    _check_size(name, size, wanted[name])
                    _write(folder / name, size, stream)
                    found.add(name)
                else:
                    stream.skip(size)
    return found


def _checked(header: Header) -> str:
    """The name of an entry. Raises BadArchive."""
    path = header.path.decode(errors="backslashreplace")
    parts = path.split("/")
    if header.kind not in _PASSED_OVER:
        raise BadArchive(f"it holds {path!r}, which is neither a file nor a folder")
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise BadArchive(f"it holds a file that would lead elsewhere: {path!r}")
    if path == "overlay.asif" or parts[0] == "content":
        raise StackedArchive
    return path.removeprefix("./")


def _check_size(name: str, size: int, most: int) -> None:
    if size > most:
        raise BadArchive(f"its {name} has {size} bytes, {most} at most make sense")


def _write(path: Path, size: int, stream: _Stream) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(descriptor, size)
            at = 0
            for chunk in stream.take(size):
                if isinstance(chunk, bytes):
                    _write_data(descriptor, at, chunk)
                at += _length(chunk)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise trouble_writing(path, exc) from exc


def _write_data(descriptor: int, at: int, data: bytes) -> None:
    """The parts that are not zeros."""
    view, start = memoryview(data), 0
    for grain in range(0, len(data), _GRAIN):
        if _ZEROS.startswith(view[grain : grain + _GRAIN]):
            write_at(descriptor, view[start:grain], at + start)
            start = grain + _GRAIN
    write_at(descriptor, view[start:], at + start)


class _Stream:
    """Takes the chunks of a stream apart where its reader wants."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._rest: Chunk = b""

    def exactly(self, size: int, *, may_end: bool = False) -> bytes:
        """A few bytes; none when `may_end` and the stream is at its end. Raises BadArchive."""
        if may_end and not self._more():
            return b""
        return b"".join(chunk if isinstance(chunk, bytes) else bytes(chunk.size) for chunk in self.take(size))

    def take(self, size: int) -> Iterator[Chunk]:
        """The next `size` bytes. Raises BadArchive."""
        while size:
            if not self._more():
                raise BadArchive("it ends in the middle of an entry")
            first, self._rest = _cut(self._rest, size)
            size -= _length(first)
            yield first

    def skip(self, size: int) -> None:
        """Leave `size` bytes out."""
        for _ in self.take(size):
            pass

    def _more(self) -> bool:
        while not _length(self._rest):
            following = next(self._chunks, None)
            if following is None:
                return False
            self._rest = following
        return True


def _cut(chunk: Chunk, size: int) -> tuple[Chunk, Chunk]:
    if isinstance(chunk, Zeros):
        first = min(size, chunk.size)
        return Zeros(first), Zeros(chunk.size - first)
    return chunk[:size], chunk[size:]


def _length(chunk: Chunk) -> int:
    return len(chunk) if isinstance(chunk, bytes) else chunk.size
