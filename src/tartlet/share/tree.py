"""What is in a folder that is synchronised. No step follows a symbolic link below the folder.

Runs in the guest too, as do `tree_lines` and `stage`: Python 3.8, and nothing but the standard library and each other.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

STAGE = ".tart-sync."
"""What the names of staging folders begin with; never synchronised."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a folder is opened."""


class Entry(NamedTuple):
    """What has a name. Times are nanoseconds; of folders only the mode counts, of links only where they lead."""

    kind: str
    """`f`, `d` or `l`; all else is left alone."""
    mode: int
    size: int
    mtime: int
    ctime: int
    ino: int
    link: str


class Refused(Exception):
    """What cannot be done, in words for the user."""


def same(one: Entry | None, other: Entry | None) -> bool:
    """Whether one side's entry has stayed what it was. A file that was touched in any way has not."""
    if one is None or other is None or one.kind != other.kind:
        return one is other
    if one.kind == "d":
        return one.mode == other.mode
    return one.link == other.link if one.kind == "l" else one[1:6] == other[1:6]


def looked_at(name: str, parent: int) -> Entry | None:
    """What has this name; None when there is nothing, or nothing that is synchronised."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        return entry_of(found, os.readlink(name, dir_fd=parent) if stat.S_ISLNK(found.st_mode) else "")
    except FileNotFoundError:
        return None


def entry_of(found: os.stat_result, link: str = "") -> Entry | None:
    """What the system tells, as an entry; None for what is not synchronised."""
    mode = found.st_mode & 0o777
    if stat.S_ISDIR(found.st_mode):
        return Entry("d", mode | stat.S_IRWXU, 0, 0, 0, 0, "")
    if stat.S_ISLNK(found.st_mode):
        return Entry("l", 0, 0, 0, 0, 0, link)
    if not stat.S_ISREG(found.st_mode):
        return None
    return Entry("f", mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, "")


def scanned(top: int) -> dict[str, Entry]:
    """Everything in a folder, by its path below it. Raises OSError when a part of it cannot be read."""
    found: dict[str, Entry] = {}
    _scan(top, "", found)
    return found


def _scan(folder: int, prefix: str, found: dict[str, Entry]) -> None:
    with os.scandir(folder) as listing:
        names = [entry.name for entry in listing if not entry.name.startswith(STAGE)]
    for name in names:
        entry = looked_at(name, folder)
        if entry is None:
            continue
        found[prefix + name] = entry
        if entry.kind == "d":
            with contextlib.suppress(FileNotFoundError), opened(folder, [name]) as below:
                _scan(below, prefix + name + "/", found)


@contextlib.contextmanager
def opened(top: int, parts: Iterable[str], *, make: bool = False) -> Generator[int, None, None]:
    """A folder below another, no step of the way a link."""
    held = os.dup(top)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=held)
            below = os.open(part, FOLDER, dir_fd=held)
            os.close(held)
            held = below
        yield held
    finally:
        os.close(held)


def parted(path: str) -> list[str]:
    """A path's parts. Raises Refused for one that would lead out of its folder, or to where it must not."""
    parts = path.split("/")
    if not is_name(path) or any(part in ("", ".", "..") or part.startswith(STAGE) for part in parts):
        raise Refused("a path that must not be: " + repr(path))
    return parts


def is_name(text: str) -> bool:
    """Whether the system could take this for a name or a path."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def settle(top: int) -> None:
    """Have all of a file system on its medium: before a side says that it has something, that survives a power cut."""
    try:
        import ctypes

        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (ImportError, AttributeError):  # a small Python, another system
        os.sync()
        return
    if syncfs(top) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
