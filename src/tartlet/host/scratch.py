"""Entries of `tmp`: made and locked by one process, collected by any other once their maker is gone."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from tartlet.errors import FileTrouble
from tartlet.host.files import removed, sync_folder
from tartlet.host.locks import LockTrouble, try_file_lock

RESUMABLE_SECONDS = 24 * 3600.0
"""How long after its last sign of life a folder that can be resumed is spared."""

_HEX = frozenset("0123456789abcdef")


@contextmanager
def scratch_folder(tmp: Path, *, ending: str = "") -> Generator[Path]:
    """A new, locked folder in `tmp` for the length of the block; what is left of it then is deleted.

    `ending` ends its name. Move it elsewhere inside the block to keep it. Raises FileTrouble.
    """
    folder, descriptor = _claimed(tmp, ending)
    try:
        yield folder
    finally:
        try:
            _swept(folder, descriptor)
        finally:
            os.close(descriptor)


def _claimed(tmp: Path, ending: str) -> tuple[Path, int]:
    while True:
        folder = tmp / f"{str(uuid4()).upper()}{ending}"
        try:
            os.mkdir(folder, 0o755)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if not tmp.is_dir():
                raise
            continue  # a collector was faster than our lock
        except OSError as exc:
            raise FileTrouble("cannot make the work folder", folder, exc) from exc
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink and os.path.isdir(folder):
            return folder, descriptor
        os.close(descriptor)


def _swept(folder: Path, descriptor: int) -> None:
    """Delete the folder unless it was moved away (its name then is free, or another's)."""
    with suppress(FileNotFoundError):
        if os.path.samestat(os.stat(folder), os.fstat(descriptor)):
            removed(folder)


def discarded(path: Path, tmp: Path) -> None:
    """Delete a folder in one step for whoever looks, by way of `tmp`, on the same file system.

    Nothing has to be made for it, so that it works where no room is left. Raises OSError.
    """
    grave = tmp / str(uuid4()).upper()
    os.rename(path, grave)
    sync_folder(path.parent)
    removed(grave)


def collect(tmp: Path) -> None:
    """Delete every entry of `tmp` that nobody holds, but for interrupted pulls younger than a day.

    Entries that vanish meanwhile (another collector, their maker) are no trouble. Raises FileTrouble, LockTrouble at
    the first that resists.
    """
    for entry in left_over(tmp):
        _collect_one(entry)


def left_over(tmp: Path) -> list[Path]:
    """What `collect` would delete if nobody held it. Raises OSError."""
    entries = (tmp / name for name in sorted(os.listdir(tmp)))
    return [entry for entry in entries if not (is_resumable(entry.name) and _is_young(entry))]


def is_resumable(name: str) -> bool:
    """Whether an entry of that name is a pull's: 32 hex digits, so that the next pull of the same image finds it."""
    return len(name) == 32 and _HEX.issuperset(name)


def _is_young(entry: Path) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - os.stat(entry).st_mtime < RESUMABLE_SECONDS
    return False


def _collect_one(entry: Path) -> None:
    try:
        descriptor = None if entry.is_symlink() else try_file_lock(entry)
    except LockTrouble:
        if os.path.lexists(entry):
            raise
        return
    if descriptor is None and not entry.is_symlink():
        return
    try:
        removed(entry)
    except OSError as exc:
        raise FileTrouble("cannot remove the left-over", entry, exc) from exc
    finally:
        if descriptor is not None:
            os.close(descriptor)
