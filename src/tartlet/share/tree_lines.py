"""How the two sides of a synchronisation speak. What comes from the other side is not believed.

Lines are JSON; names that are no UTF-8 travel as surrogates. After the line of a file comes its content: pieces, each
an offset (8 bytes) and a length (4) in front of the data, so that holes stay holes; one of no length tells the size.
"""

from __future__ import annotations

import errno
import json
import os
import struct

from tartlet.share.tree import Entry, Refused, entry_of, is_name, opened, parted, same

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

END: list[Any] = []
"""The last of several lines."""
LARGEST = 1 << 20
"""Bytes of a line or a piece, at most."""

_PIECE = struct.Struct(">QI")


def _is_list(told: object) -> bool:
    return isinstance(told, (list, tuple))


def write_line(out: BinaryIO, told: object) -> None:
    """One line of JSON."""
    out.write(json.dumps(told).encode() + b"\n")


def read_line(stream: BinaryIO) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The next line; None at the end. Raises Refused for what is none."""
    line = stream.readline(LARGEST)
    try:
        return json.loads(line) if line else None
    except (ValueError, RecursionError):
        raise Refused("what the other side says cannot be read") from None


def read_lines(stream: BinaryIO) -> Iterator[list[Any]]:
    """Lines up to END. Raises Refused when there is none, and for lines that are no list."""
    while True:
        told = read_line(stream)
        if told == END:
            return
        if not isinstance(told, list):
            raise Refused("the other side stopped in the middle")
        yield told


def entry_from(told: Any) -> Entry | None:  # noqa: ANN401 - as above
    """An entry of a line. Raises Refused."""
    if told is None:
        return None
    words: list[Any] = list(told) if _is_list(told) else []
    good = len(words) == len(Entry._fields) and words[0] in ("f", "d", "l")
    good = good and all(isinstance(number, int) and abs(number) < 1 << 62 for number in words[1:-1])
    if good and isinstance(words[-1], str) and is_name(words[-1]):
        return Entry._make(words)
    raise Refused("what the other side says of a file cannot be read")


def write_file(top: int, path: str, out: BinaryIO, words: list[Any]) -> None:
    """A file: a line of these words and its entry, its content, and a line that tells whether it stayed as it was."""
    parts = parted(path)
    with opened(top, parts[:-1]) as parent:
        file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        before = entry_of(os.fstat(file))
        if before is None or before.kind != "f":
            raise FileNotFoundError(errno.ENOENT, "it is a file no more", path)
        write_line(out, [*words, before])
        for offset, length in _extents(file, before.size):
            for start in range(offset, offset + length, LARGEST):
                data = os.pread(file, min(LARGEST, offset + length - start), start)
                if data:
                    out.write(_PIECE.pack(start, len(data)))
                    out.write(data)
        out.write(_PIECE.pack(before.size, 0))
        write_line(out, same(before, entry_of(os.fstat(file))))
    finally:
        os.close(file)


def _extents(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data: offset and length."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
            end = min(os.lseek(file, start, os.SEEK_HOLE), size)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing but a hole to its end
                return
            start, end = end, size
        if start < end:
            yield start, end - start


def take_content(stream: BinaryIO, file: int) -> None:
    """Write a content to a file. Raises Refused."""
    while _piece(stream, file):
        pass


def _piece(stream: BinaryIO, file: int) -> bool:
    offset, length = (int(number) for number in _PIECE.unpack(_read(stream, _PIECE.size)))
    if length > LARGEST or offset + length >= 1 << 62:
        raise Refused("what the other side sends of a file cannot be read")
    data = memoryview(_read(stream, length))
    if not length:
        os.ftruncate(file, offset)
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
    return length > 0


def _read(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise Refused("the other side stopped in the middle")
    return data
