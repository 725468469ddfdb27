"""Give a new VM folder the disk of another, sharing every block that can be shared.

In this order: a reflink; else the source's disk becomes a base (`freeze`) and both folders get an empty overlay on
it; else, on another file system, a copy that keeps holes. A top with next to no data of its own is copied rather
than frozen, so that cloning one VM many times does not stack empty layers.
"""

from __future__ import annotations

import enum
import errno
import logging
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tartlet.disk import qcow2
from tartlet.disk.chain import Chain, ForeignBacking, chain_of, folder_lock, names_in
from tartlet.disk.freeze import freeze, make_read_only, tidy
from tartlet.disk.model import DISK, Disk, DiskFormat, allocated, inspect, is_base_name
from tartlet.errors import FileTrouble, ToolFailed, UserError
from tartlet.host.copying import reflink, sparse_copy
from tartlet.host.trouble import trouble_writing

log = logging.getLogger(__name__)

SMALL = 2 * 1024 * 1024
"""A top file with at most this many allocated bytes is copied instead of becoming another layer."""

_TRIES = 3

Progress = Callable[[int], None]


class CloneMethod(enum.StrEnum):
    """How the clone came by its disk."""

    REFLINK = "reflink"
    SHARED_BASE = "shared base"
    COPY = "copy"


class TornCopy(UserError):
    """A running VM changed its overlay's tables while they were copied."""

    def __init__(self, disk: Path) -> None:
        super().__init__(f"the disk {disk} is being written too fast to be copied whole")
        self.hint = "stop or suspend that VM and clone it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneReport:
    """What cloning a disk came to."""

    method: CloneMethod
    format: DiskFormat
    """Of the new disk, for its config."""
    source_format: DiskFormat
    """Of the source's disk from now on: freezing makes a raw one qcow2. For its config, which is only informed."""
    bytes_copied: int
    """Data that had to be written because it could not be shared."""


def clone_disk(
    source: Path, target: Path, *, running: bool, declared: str | None = None, progress: Progress | None = None
) -> CloneReport:
    """Give the folder `target` (this process's own, without a disk) the disk of the VM folder `source`.

    Freezing changes the source's files, so an image in the cache is cloned by `stand_on` instead.

    `running`: somebody runs the source. Then it is left alone: its top is reflinked or copied, which is the disk of
    a guest whose power was cut. When False the caller keeps it from being started until this returns (it holds the
    record lock of its `config.json`). A source that this user cannot write to is not frozen either. Other clones of
    the source are held off here, by the file lock of `source`, which the caller must not hold. `declared` is the
    format in the source's config. `progress` gets copied bytes.

    Ended early, it leaves no disk file in `target`, and the source with its old disk or an equal one.
    Raises NoSpace, FileTrouble, DamagedDisk, ForeignBacking, TornCopy, ToolMissing, ToolFailed.
    """
    with folder_lock(source), _new_disk_files(target):
        chain = chain_of(source, declared)
        untouchable = running or not os.access(source, os.W_OK)
        if not untouchable:
            tidy(source, chain)
        return _cloned(source, chain, target, may_freeze=not untouchable, running=running, progress=progress)


def stand_on(base: Path, target: Path, *, declared: str | None = None, progress: Progress | None = None) -> CloneReport:
    """Give the folder `target` a disk with the content of `base`: a whole image that nobody writes any more.

    For cached files, which stay what they are: `base` becomes read-only when it gets hard-linked, and may be deleted
    later. `declared` is the format in the image's config, see `inspect`. Raises as `clone_disk` does.
    """
    with _new_disk_files(target):
        disk = inspect(base, declared)
        if disk.backing:
            raise ForeignBacking(base, disk.backing[0])
        if reflink(base, target / DISK):
            return _report(CloneMethod.REFLINK, disk, disk, 0)
        if can_be_base(disk) and allocated(base) > SMALL and _linked(base, target / "base.img"):
            make_read_only(target / "base.img")
            qcow2.write_empty(target / DISK, disk.size, ("base.img", disk.format))
            return _report(CloneMethod.SHARED_BASE, inspect(target / DISK, disk.format), disk, 0)
        copied = sparse_copy(base, target / DISK, sync=True, progress=progress)
        return _report(CloneMethod.COPY, disk, disk, copied)


def _cloned(
    source: Path, chain: Chain, target: Path, *, may_freeze: bool, running: bool, progress: Progress | None
) -> CloneReport:
    top = chain.top
    if reflink(top.path, target / DISK):
        _, copied = share_bases(chain, target, progress)
        return _report(CloneMethod.REFLINK, top, top, copied)
    if may_freeze and _worth_freezing(chain, target):
        merged = freeze(source, chain)
        if merged is not None:
            frozen = chain_of(source, DiskFormat.QCOW2)
            return _on_the_same_bases(frozen, target, merged, progress)
    linked, copied = share_bases(chain, target, progress)
    copied += _copy_of_top(top, target / DISK, running=running, progress=progress)
    return _report(CloneMethod.SHARED_BASE if linked else CloneMethod.COPY, top, top, copied)


def _on_the_same_bases(frozen: Chain, target: Path, merged: int, progress: Progress | None) -> CloneReport:
    linked, copied = share_bases(frozen, target, progress)
    nearest = frozen.bases[0]
    qcow2.write_empty(target / DISK, frozen.top.size, (nearest.path.name, nearest.format))
    method = CloneMethod.SHARED_BASE if linked else CloneMethod.COPY
    return _report(method, frozen.top, frozen.top, copied + merged)


def _report(method: CloneMethod, new: Disk, source: Disk, copied: int) -> CloneReport:
    log.debug("%s: %s, %d bytes copied", new.path, method, copied)
    return CloneReport(method=method, format=new.format, source_format=source.format, bytes_copied=copied)


def _worth_freezing(chain: Chain, target: Path) -> bool:
    path = chain.top.path
    return can_be_base(chain.top) and allocated(path) > SMALL and os.stat(path).st_dev == os.stat(target).st_dev


def can_be_base(disk: Disk) -> bool:
    """Whether others may stand on it: not on ASIF, nor on somebody's arrangement, a link or device named `disk.img`."""
    return disk.format is not DiskFormat.ASIF and stat.S_ISREG(os.lstat(disk.path).st_mode)


def share_bases(chain: Chain, target: Path, progress: Progress | None = None) -> tuple[bool, int]:
    """Put the bases into `target`, by links where possible: whether any was linked, and the bytes copied otherwise.

    Raises NoSpace, FileTrouble.
    """
    linked, copied = False, 0
    for base in chain.bases:
        path = target / base.path.name
        if _linked(base.path, path):
            linked = True
        elif not reflink(base.path, path, mode=0o444):
            copied += sparse_copy(base.path, path, mode=0o444, sync=True, progress=progress)
    return linked, copied


def _linked(base: Path, target: Path) -> bool:
    """Hard-link; False where that cannot be: another file system, too many links, another user's file."""
    try:
        os.link(base, target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EEXIST, errno.ENOENT, errno.EIO):
            raise trouble_writing(target, exc) from exc
        log.debug("cannot link %s to %s: %s", base, target, exc)
        return False
    return True


def _copy_of_top(top: Disk, target: Path, *, running: bool, progress: Progress | None) -> int:
    """Copy the top; if its guest runs and its tables may have moved meanwhile, make sure that the copy is whole."""
    copied = 0
    for _ in range(_TRIES if running else 1):
        copied += sparse_copy(top.path, target, sync=True, progress=progress)
        if not running or top.format is not DiskFormat.QCOW2 or _is_whole(target):
            return copied
        os.unlink(target)
    raise TornCopy(top.path)


def _is_whole(disk: Path) -> bool:
    """Clusters in use but not counted would be overwritten; those counted but not in use (status 3) are harmless."""
    from tartlet.host.process import run_now  # brings anyio, which most clones do without

    try:
        run_now("qemu-img", "check", "-q", "-f", "qcow2", os.path.abspath(disk))
    except ToolFailed as exc:
        return exc.exit_status == 3
    return True


@contextmanager
def _new_disk_files(target: Path) -> Generator[None, None, None]:
    """Whatever ends the block early, `target` has no disk file afterwards; what the system refuses is a FileTrouble."""
    try:
        if _disk_files(target):
            raise FileExistsError(errno.EEXIST, "it has a disk already")
    except OSError as exc:
        raise FileTrouble("cannot make a clone in", target, exc) from exc
    try:
        yield
    except BaseException as exc:
        for path in _disk_files(target):
            os.unlink(path)
        if isinstance(exc, OSError):
            raise trouble_writing(target, exc) from exc
        raise


def _disk_files(folder: Path) -> list[Path]:
    return [folder / name for name in names_in(folder) if name == DISK or is_base_name(name)]
