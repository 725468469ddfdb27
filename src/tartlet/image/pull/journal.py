"""Which pieces of a disk under construction are written and verified, in a file that any kill leaves readable.

The first line says which disk file and which boot of this machine the rest is about. A piece is noted after it was
written, and what was written survives the death of its process, but not the loss of power: after another boot the
noted pieces have to be verified again. One line a piece, each written by one call; a line without its end is none.
"""

from __future__ import annotations

import os
from pathlib import Path

from tartlet.errors import FileTrouble
from tartlet.host.files import write_all, write_whole
from tartlet.host.trouble import trouble_writing

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Journal:
    """The finished pieces of one disk file, by their place in the image."""

    def __init__(self, path: Path, disk: int) -> None:
        """`disk` is the open disk file. Raises FileTrouble."""
        self._path = path
        self._header = _header(disk)
        header, self.done = _read(path)
        self.is_trusted = header == self._header and "?" not in header
        """Whether `done` is beyond doubt. If not, verify those pieces and call `restart`."""
        self._descriptor: int | None = None
        if self.is_trusted:
            self.restart(self.done)

    def restart(self, done: set[int]) -> None:
        """Note that exactly these pieces are finished. Raises FileTrouble."""
        self.close()
        self.done = set(done)
        lines = [self._header, *map(str, sorted(done)), ""]
        try:
            write_whole(self._path, "\n".join(lines).encode())
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError as exc:
            raise trouble_writing(self._path, exc) from exc
        self.is_trusted = True

    def add(self, piece: int) -> None:
        """Note that a piece is finished. Raises FileTrouble, RuntimeError before `restart` of a doubtful journal."""
        if self._descriptor is None:
            raise RuntimeError("the journal is not open")
        try:
            write_all(self._descriptor, f"{piece}\n".encode())  # no other line is put behind a part of one
        except OSError as exc:
            raise trouble_writing(self._path, exc) from exc
        self.done.add(piece)

    def close(self) -> None:
        """Stop noting."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def noted(path: Path) -> set[int]:
    """The pieces that a journal, which may be another process's, tells as finished; none without one.

    Raises FileTrouble.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[str, set[int]]:
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return "?", set()
    except OSError as exc:
        raise FileTrouble("cannot read", path, exc) from exc
    header, *lines = text.split("\n")[:-1] or ["?"]
    return header, {int(line) for line in lines if line.isascii() and line.isdigit()}


def _header(disk: int) -> str:
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        boot = "?"  # a Mac: verify always
    return f"boot {boot} disk {os.fstat(disk).st_ino}"
