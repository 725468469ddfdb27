"""Turn the disk of a stopped VM into a base that others can stand on, without its guest seeing a difference.

Killed between any two system calls, the folder holds the old disk or the new one, whole:

1. the empty overlay is written under another name and synced;
2. the disk gets a second name, `base….img` (a hard link: the guest's bytes do not move);
3. the overlay takes the name `disk.img` in one step (rename);
4. the base becomes read-only.

A process killed before step 3 leaves a name too many, one killed after it a base that is still writable. The next
clone of the stopped VM mends both (`tidy`); nothing else ever looks at a base that no disk names.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from tartlet.disk import qcow2
from tartlet.disk.chain import NEW_DISK, NEW_LAYER, Chain, chain_of, drop_unused, new_base_name, unlinked
from tartlet.disk.model import DISK, Disk, DiskFormat, allocated
from tartlet.errors import FileTrouble, ToolFailed
from tartlet.host.copying import sparse_copy
from tartlet.host.files import sync_folder
from tartlet.host.trouble import trouble_writing

log = logging.getLogger(__name__)

MAX_BASES = 8
"""Files below `disk.img` at most; see docs/decisions/0020-disk-chains.md for what more of them cost."""

_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)

READ_ONLY = 0o444


def freeze(folder: Path, chain: Chain) -> int | None:
    """Make the top of `chain` a base and put an empty overlay in its place; at the limit, merge layers into one.

    Needs `folder_lock` and a VM that does not run. Returns the bytes that merging had to copy (mostly 0), or None
    when this file system has no hard links and nothing was done. Raises NoSpace, FileTrouble, ToolMissing, ToolFailed.
    """
    tidy(folder, chain)
    try:
        if len(chain.bases) < MAX_BASES:
            return 0 if _freeze_top(folder, chain.top) else None
        return _merge(folder, chain, cut=merge_from(chain.sizes()))
    except BaseException:
        unlinked(folder / NEW_DISK, folder / NEW_LAYER)
        raise


def tidy(folder: Path, chain: Chain) -> None:
    """Finish what a killed predecessor left in a folder whose VM does not run: names too many, a writable base.

    Needs `folder_lock`, and a chain read under it. Raises FileTrouble.
    """
    drop_unused(folder, chain)
    for base in chain.bases:
        make_read_only(base.path)


def merge_from(sizes: Sequence[int]) -> int:
    """Which layers become one: from the returned place on. `sizes` are allocated bytes, bottom first, three or more.

    Chosen is the cut that copies the fewest bytes for each layer it saves. The bottom is never copied: it is what
    most clones share and usually the largest.
    """
    cuts = range(1, len(sizes) - 1)
    return min(cuts, key=lambda cut: sum(sizes[cut:]) / (len(sizes) - cut - 1))


def make_read_only(path: Path) -> None:
    """Guard a base against being written by mistake; one that belongs to another user stays as it is."""
    try:
        if os.stat(path).st_mode & 0o777 != READ_ONLY:
            os.chmod(path, READ_ONLY)
    except OSError as exc:
        log.debug("cannot make %s read-only: %s", path, exc)


def _freeze_top(folder: Path, top: Disk) -> bool:
    name = new_base_name(folder)
    _new_overlay(folder, top, on=name, kind=top.format)
    try:
        os.link(top.path, folder / name)
    except OSError as exc:
        unlinked(folder / NEW_DISK)
        if exc.errno in _NO_LINKS:
            log.debug("%s cannot become a base: %s", top.path, exc)
            return False
        raise FileTrouble("cannot make a base of", top.path, exc) from exc
    _put_in_place(folder, name)
    return True


def _merge(folder: Path, chain: Chain, *, cut: int) -> int:
    """Write layers `cut` and up as one new base, then let an empty overlay on it take the place of the disk."""
    bottom_first = [*reversed(chain.bases), chain.top]
    below = bottom_first[cut - 1]
    new = folder / NEW_LAYER
    log.debug("merging %d layers of %s", len(bottom_first) - cut, folder)
    sparse_copy(chain.top.path, new)
    _rebase(new, below)
    _synced(new)
    name = new_base_name(folder)
    _new_overlay(folder, chain.top, on=name, kind=chain.top.format)
    try:
        size = allocated(new)
        os.rename(new, folder / name)
    except OSError as exc:
        raise FileTrouble("cannot make a base of", new, exc) from exc
    _put_in_place(folder, name)
    drop_unused(folder, chain_of(folder, DiskFormat.QCOW2))
    return size


def _rebase(layer: Path, below: Disk) -> None:
    """Let `layer` stand on `below`, with all that lies between; qemu-img reads and writes only what differs."""
    from tartlet.host.process import run_now  # brings anyio, which most clones do without

    base = ("-F", below.format, "-b", below.path.name)
    try:
        run_now("qemu-img", "rebase", "-f", "qcow2", *base, os.path.abspath(layer))
    except ToolFailed as exc:
        if os.strerror(errno.ENOSPC) in exc.stderr:
            raise trouble_writing(layer, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from exc
        raise


def _new_overlay(folder: Path, top: Disk, *, on: str, kind: str) -> None:
    """An empty disk beside the present one, with the same owner and rights."""
    path = folder / NEW_DISK
    qcow2.write_empty(path, top.size, (on, kind))
    try:
        old, new = os.stat(top.path), os.stat(path)
        os.chmod(path, old.st_mode & 0o777)
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            os.chown(path, old.st_uid, old.st_gid)
    except OSError as exc:
        raise FileTrouble("cannot give the rights of the disk to", path, exc) from exc


def _put_in_place(folder: Path, base: str) -> None:
    try:
        os.replace(folder / NEW_DISK, folder / DISK)
        make_read_only(folder / base)
        sync_folder(folder)
    except OSError as exc:
        raise FileTrouble("cannot replace", folder / DISK, exc) from exc


def _synced(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise trouble_writing(path, exc) from exc
