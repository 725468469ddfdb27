"""The files that make up the disk of one VM folder: `disk.img` on top, then the bases it stands on.

Every base is hard-linked into every folder that needs it, and named relatively, so a folder is complete in itself,
can be moved with its home, and no deleted neighbour can break it. A base is never written again.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tartlet.disk.model import DISK, Disk, allocated, inspect, inspect_base, is_base_name
from tartlet.disk.qcow2 import DamagedDisk
from tartlet.errors import FileTrouble, UserError
from tartlet.host.locks import file_lock

NEW_DISK = ".disk.img.new"
NEW_LAYER = ".layer.new"
"""Names of work in progress in a VM folder; what a killed process left under them is removed by the next one."""


class ForeignBacking(UserError):
    """An overlay that stands on a file outside its own folder: it could show the guest any file of this host."""

    def __init__(self, path: Path, backing: str) -> None:
        super().__init__(f"the disk {path} stands on {backing!r}, which is no base file of its own folder")
        self.hint = f"make it whole first: qemu-img convert -O raw {path} whole.img"


@dataclass(frozen=True, slots=True)
class Chain:
    """The disk of a VM folder as it was when it was read."""

    top: Disk
    bases: tuple[Disk, ...] = ()
    """Nearest first: the last one is the bottom."""

    def sizes(self) -> list[int]:
        """Allocated bytes of each file, bottom first. Raises OSError."""
        return [allocated(disk.path) for disk in (*reversed(self.bases), self.top)]


def chain_of(folder: Path, declared: str | None = None) -> Chain:
    """The chain of a VM folder; `declared` is the format its config tells, see `inspect`.

    Raises FileTrouble, DamagedDisk, ForeignBacking.
    """
    return chain_from(inspect(folder / DISK, declared))


def chain_from(top: Disk) -> Chain:
    """The chain below any disk file whose bases stand beside it. Raises FileTrouble, DamagedDisk, ForeignBacking."""
    bases: list[Disk] = []
    seen: set[str] = set()
    disk = top
    while disk.backing:
        name, kind = disk.backing
        path = top.path.parent / name
        if not is_base_name(name) or path.is_symlink():
            raise ForeignBacking(disk.path, name)
        if name in seen:
            raise DamagedDisk(top.path, f"it stands on {name} twice")
        seen.add(name)
        disk = inspect_base(path, kind)
        bases.append(disk)
    return Chain(top, tuple(bases))


@contextmanager
def folder_lock(folder: Path) -> Generator[None, None, None]:
    """Hold off other processes that change the disk files of this folder (its BSD file lock). Raises LockTrouble."""
    with file_lock(folder):
        yield


def new_base_name(folder: Path) -> str:
    """The first name for a base that is free in this folder."""
    number = 1
    while True:
        name = "base.img" if number == 1 else f"base-{number}.img"
        if not os.path.lexists(folder / name):
            return name
        number += 1


def drop_unused(folder: Path, chain: Chain) -> None:
    """Unlink bases the disk does not stand on, and half-made files: rubbish of a killed or replaced predecessor.

    Needs `folder_lock`, and a chain read under it. Raises FileTrouble.
    """
    used = {base.path.name for base in chain.bases}
    try:
        for name in list(names_in(folder)):
            if (is_base_name(name) and name not in used) or name in (NEW_DISK, NEW_LAYER):
                os.unlink(folder / name)
    except OSError as exc:
        raise FileTrouble("cannot clean up the disk files in", folder, exc) from exc


def names_in(folder: Path) -> Iterable[str]:
    """What a folder holds, read without touching its access time where the system allows. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        descriptor = os.open(folder, flags | getattr(os, "O_NOATIME", 0))
    except PermissionError:  # O_NOATIME is for the owner only
        descriptor = os.open(folder, flags)
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def unlinked(*paths: Path) -> None:
    """Remove files that may be missing. Raises OSError."""
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)
