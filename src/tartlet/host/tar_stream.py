"""Files and folders as a tar stream on a descriptor. What comes in is not believed: nothing leaves the target folder.

The format is pax (POSIX.1-2001), which every tar of today reads; read is whatever the standard library knows.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

from tartlet.errors import FileTrouble, UserError
from tartlet.host.trouble import trouble_writing

_PIECE = 256 << 10


class BadStream(UserError):
    """A tar stream that is damaged, cut, or wants to write where it must not."""


def pack(source: Path, name: str, descriptor: int) -> None:
    """Write a file, or a folder and all in it, as `name` to a descriptor. Raises FileTrouble, BrokenPipeError.

    Owners stay behind; devices and sockets are left out.
    """
    with open(descriptor, "wb", buffering=_PIECE, closefd=False) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_PIECE) as archive:
                archive.add(source, arcname=name, filter=_ownerless)
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise FileTrouble("cannot read", exc.filename or source, exc) from exc


def _ownerless(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry if entry.isreg() or entry.isdir() or entry.issym() or entry.islnk() or entry.isfifo() else None


def unpack(descriptor: int, folder: Path, name: str) -> None:
    """Read a stream that holds one file or folder, and make it `name` in `folder`; what is in the way is overwritten.

    Files belong to the caller; set-user-id bits are dropped; devices, sockets and pipes are left out.
    Raises BadStream, FileTrouble.
    """
    with open(descriptor, "rb", buffering=_PIECE, closefd=False) as stream, _Target(folder, name) as target:
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE) as archive:
                for entry in archive:
                    target.take(archive, entry)
        except tarfile.TarError as exc:
            raise BadStream(f"the guest sent no whole archive: {exc}") from exc
        except OSError as exc:
            raise trouble_writing(exc.filename or folder / name, exc) from exc
        target.finish()


class _Target:
    """Where a stream's entries go. Every step down is made without following links."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._top = -1
        self._stamps: list[tuple[list[str], tarfile.TarInfo]] = []
        self._count = 0

    def __enter__(self) -> Self:
        try:
            self._top = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as exc:
            raise FileTrouble("cannot open the folder", self._folder, exc) from exc
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._top)

    def take(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        parts = self._place(entry.name)
        self._count += 1
        if not parts:  # the target folder itself
            return
        with self._opened(parts[:-1]) as parent:
            if entry.isdir():
                _make_folder(parts[-1], parent)
                self._stamps.append((parts, entry))
            elif entry.isreg():
                _write_file(archive, entry, parts[-1], parent)
            elif entry.issym():
                _cleared(parts[-1], parent)
                os.symlink(entry.linkname, parts[-1], dir_fd=parent)
            elif entry.islnk():
                self._link(entry, parts, parent)

    def finish(self) -> None:
        """Folders get their modes and times last: what is in them has changed both."""
        if not self._count:
            raise BadStream("the guest sent nothing")
        for parts, entry in reversed(self._stamps):
            with self._opened(parts) as folder:
                os.fchmod(folder, entry.mode & 0o777 | stat.S_IRWXU)
                os.utime(folder, (entry.mtime, entry.mtime))

    def _place(self, told: str) -> list[str]:
        """The path below the target folder. The first part of what is told is the thing itself, whatever its name."""
        parts = [part for part in told.split("/") if part not in ("", ".")]
        if ".." in parts or told.startswith("/") or "\0" in told:
            raise BadStream(f"the guest sent a file that would not be in its place: {told!r}")
        own = [part for part in self._name.split("/") if part not in ("", ".")]
        return own + (parts[1:] if not told.startswith("./") and told != "." else parts)

    @contextmanager
    def _opened(self, parts: list[str]) -> Generator[int]:
        held = os.dup(self._top)
        try:
            for part in parts:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=held)
                os.close(held)
                held = below
            yield held
        finally:
            os.close(held)

    def _link(self, entry: tarfile.TarInfo, parts: list[str], parent: int) -> None:
        source = self._place(entry.linkname)
        if source == parts or not source:
            raise BadStream(f"the guest sent a link to itself: {entry.name!r}")
        with self._opened(source[:-1]) as other:
            _cleared(parts[-1], parent)
            os.link(source[-1], parts[-1], src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)


def _make_folder(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise


def _write_file(archive: tarfile.TarFile, entry: tarfile.TarInfo, name: str, parent: int) -> None:
    _cleared(name, parent)
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
    with open(descriptor, "wb", buffering=0) as file:
        content = archive.extractfile(entry)
        assert content is not None  # it is a regular file
        _copy(content, file)
        os.fchmod(descriptor, entry.mode & 0o777)
        os.utime(descriptor, (entry.mtime, entry.mtime))


def _copy(content: IO[bytes], file: IO[bytes]) -> None:
    """Whole, and with the holes that an archive of a sparse file has."""
    shutil.copyfileobj(content, file, _PIECE)


def _cleared(name: str, parent: int) -> None:
    """Make room for something that is no folder; a folder in the way is an error of the next step."""
    with suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(name, dir_fd=parent)
