"""Changes on their way into a folder.

New content is staged in the folder first and then renamed into place, so a full disk changes nothing, and nobody ever
sees half a file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat

from tartlet.share.tree import FOLDER, STAGE, Entry, looked_at, opened, parted, same
from tartlet.share.tree_lines import LARGEST, take_content

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import BinaryIO

_NO_FOLDER = (errno.ENOTDIR, errno.ELOOP)
"""A part of the way to a path is a file or a link."""


class Stage:
    """New content on its way into a folder."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._forget_dead()
        self._name = STAGE + os.urandom(8).hex()
        os.mkdir(self._name, 0o700, dir_fd=top)
        self._folder = os.open(self._name, FOLDER, dir_fd=top)
        fcntl.flock(self._folder, fcntl.LOCK_EX)
        self._files: dict[str, str] = {}
        self._modes: dict[str, int] = {}
        found = os.fstat(top)
        self._owner = (found.st_uid, found.st_gid) if os.geteuid() == 0 else None

    def _forget_dead(self) -> None:
        """Remove what killed predecessors left; whoever lives holds a lock."""
        for name in os.listdir(self._top):
            if name.startswith(STAGE):
                with contextlib.suppress(OSError), opened(self._top, [name]) as folder:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _emptied(folder)
                    os.rmdir(name, dir_fd=self._top)

    def take(self, path: str, entry: Entry, stream: BinaryIO) -> None:
        """Take a file's content from a stream."""
        name = str(len(self._files))
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
        try:
            take_content(stream, file)
            if self._owner:
                os.fchown(file, *self._owner)
            os.fchmod(file, entry.mode & 0o777)
            os.utime(file, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(file)
        self._files[path] = name

    def equals(self, path: str) -> bool:
        """Whether the staged file holds what the one in place does."""
        parts = parted(path)
        with opened(self._top, parts[:-1]) as parent, contextlib.ExitStack() as held:
            old = held.enter_context(_reading(parts[-1], parent))
            return _equal(old, held.enter_context(_reading(self._files[path], self._folder)))

    def place(self, path: str, entry: Entry, expected: Entry | None, *, staged: str = "") -> Entry | None:
        """Make `path` what `entry` tells; its entry then. None, and nothing done, when it is not as expected before.

        A file's content was staged, under the name `staged` when that is another.
        """
        try:
            return self._place(parted(path), path, entry, expected, staged or path)
        except OSError as exc:
            if exc.errno in _NO_FOLDER:
                return None
            raise

    def _place(self, parts: list[str], path: str, entry: Entry, expected: Entry | None, staged: str) -> Entry | None:
        with opened(self._top, parts[:-1], make=True) as parent:
            now = looked_at(parts[-1], parent)
            if not same(now, expected) or not _out_of_the_way(parts[-1], parent, now, entry.kind):
                return None
            if entry.kind == "d":
                if now is None or now.kind != "d":
                    os.mkdir(parts[-1], 0o700, dir_fd=parent)
                    self._give(parts[-1], parent)
                self._modes[path] = entry.mode & 0o777 | stat.S_IRWXU
                return Entry("d", self._modes[path], 0, 0, 0, 0, "")
            name = self._files[staged] if entry.kind == "f" else self._linked(entry.link)
            os.rename(name, parts[-1], src_dir_fd=self._folder, dst_dir_fd=parent)
            return looked_at(parts[-1], parent)

    def _linked(self, target: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("link", dir_fd=self._folder)
        os.symlink(target, "link", dir_fd=self._folder)
        self._give("link", self._folder)
        return "link"

    def _give(self, name: str, parent: int) -> None:
        if self._owner:
            os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)

    def remove(self, path: str, expected: Entry) -> bool:
        """Remove what is at `path`; whether it is gone. What is not as expected, or is a folder not empty, stays."""
        parts = parted(path)
        try:
            with opened(self._top, parts[:-1]) as parent:
                now = looked_at(parts[-1], parent)
                if now is None:
                    return True
                return same(now, expected) and _out_of_the_way(parts[-1], parent, now, "")
        except FileNotFoundError:
            return True
        except OSError as exc:
            if exc.errno in _NO_FOLDER:
                return True
            raise

    def close(self) -> None:
        """Folders get their modes, and the staging folder goes."""
        for path, mode in sorted(self._modes.items(), reverse=True):
            with contextlib.suppress(FileNotFoundError), opened(self._top, parted(path)) as folder:
                os.fchmod(folder, mode)
        _emptied(self._folder)
        os.close(self._folder)
        os.rmdir(self._name, dir_fd=self._top)


@contextlib.contextmanager
def staging(top: int) -> Generator[Stage, None, None]:
    """A stage for the length of the block."""
    stage = Stage(top)
    try:
        yield stage
    finally:
        stage.close()


def _out_of_the_way(name: str, parent: int, now: Entry | None, kind: str) -> bool:
    """Remove what is of another kind; False for a folder that is not empty."""
    if now is None or now.kind == kind:
        return True
    try:
        (os.rmdir if now.kind == "d" else os.unlink)(name, dir_fd=parent)
    except OSError as exc:
        if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _emptied(folder: int) -> None:
    for name in os.listdir(folder):
        os.unlink(name, dir_fd=folder)


def _equal(one: BinaryIO, other: BinaryIO) -> bool:
    while True:
        data = one.read(LARGEST)
        if data != other.read(LARGEST):
            return False
        if not data:
            return True


@contextlib.contextmanager
def _reading(name: str, parent: int) -> Generator[BinaryIO, None, None]:
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent), "rb") as file:
        yield file
