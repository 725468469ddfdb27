"""Writing the archive of a VM."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tartlet.archive.container import ContainerWriter, Zeros, written
from tartlet.archive.entries import made

_STEP = 1024 * 1024


class Content(Protocol):
    """The bytes of a file to be archived."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges that may hold something else than zeros, in order."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset` on."""
        ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """Content that is at hand."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    def data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        yield start, end

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


def write_archive(write: Callable[[bytes], object], files: Sequence[tuple[str, Content]]) -> None:
    """Archive files under their names; the bytes go to `write`, in order. Raises what reading and writing raise."""
    now = int(time.time())
    with written(write) as stream:
        stream.add(made("D", b"", mode=0o755, moment=now))
        for name, content in files:
            stream.add(made("F", name.encode(), mode=0o644, moment=now, size=content.size))
            _add_content(stream, content)


def _add_content(stream: ContainerWriter, content: Content) -> None:
    done = 0
    for start, end in content.data(0, content.size):
        if done < start:
            stream.add(Zeros(start - done))
        for at in range(start, end, _STEP):
            stream.add(content.read(at, min(_STEP, end - at)))
        done = end
    if done < content.size:
        stream.add(Zeros(content.size - done))
