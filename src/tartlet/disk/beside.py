"""The disk of a VM that is halted for a moment, for another folder on the same file system: nothing is written to it
afterwards but through an overlay, which its owner is told to go on with.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from tartlet.disk import qcow2
from tartlet.disk.chain import NEW_DISK, Chain, chain_of, new_base_name, unlinked
from tartlet.disk.clone import SMALL, can_be_base, share_bases
from tartlet.disk.freeze import MAX_BASES, make_read_only
from tartlet.disk.model import DISK, Disk, DiskFormat, allocated
from tartlet.errors import FileTrouble
from tartlet.host.copying import reflink, sparse_copy
from tartlet.host.files import sync_folder

GoOnWith = Callable[[Path, Path, str], Awaitable[None]]
"""Lets the halted machine write to an empty overlay from now on, and only read the file it wrote to before; gets the
overlay, the other name of that file, and its format."""


async def shared_with(source: Path, declared: str, target: Path, go_on_with: GoOnWith) -> DiskFormat:
    """Give the folder `target` the disk that the halted VM of `source` has now; the format of its top.

    Shared as `clone_disk` shares: a reflink; else the disk becomes a base of both, and its machine goes on with an
    overlay. A disk with little data of its own, or on many bases, is copied. Needs the folder's lock. Killed or failing
    at any point, `source` has a disk with the same content. Raises what `go_on_with` raises, NoSpace, FileTrouble,
    DamagedDisk, ForeignBacking.
    """
    chain = chain_of(source, declared)
    top = chain.top
    if reflink(top.path, target / DISK):
        await anyio.to_thread.run_sync(share_bases, chain, target)
        return top.format
    if allocated(top.path) > SMALL and len(chain.bases) < MAX_BASES and can_be_base(top):
        name = await _frozen(source, top, go_on_with)
        if name is not None:
            share_bases(Chain(top, (Disk(path=source / name, format=top.format, size=top.size), *chain.bases)), target)
            qcow2.write_empty(target / DISK, top.size, (name, top.format))
            return DiskFormat.QCOW2
    await anyio.to_thread.run_sync(share_bases, chain, target)
    await anyio.to_thread.run_sync(partial(sparse_copy, top.path, target / DISK, sync=True))
    return top.format


async def _frozen(folder: Path, top: Disk, go_on_with: GoOnWith) -> str | None:
    """Make the disk a base under the returned name, its machine going on with an overlay; None without hard links."""
    name = new_base_name(folder)
    try:
        os.link(top.path, folder / name)
    except OSError:
        return None  # a file system without hard links
    try:
        qcow2.write_empty(folder / NEW_DISK, top.size, (name, top.format))
        os.chmod(folder / NEW_DISK, os.stat(top.path).st_mode & 0o777)
        os.replace(folder / NEW_DISK, folder / DISK)
        sync_folder(folder)
        with anyio.CancelScope(shield=True):  # cancelled halfway, nobody would know what the machine goes on with
            await go_on_with(folder / DISK, folder / name, top.format)
    except BaseException as exc:
        unlinked(folder / NEW_DISK)
        os.replace(folder / name, folder / DISK)  # the same file twice: then both names stay, and one goes below
        unlinked(folder / name)
        if isinstance(exc, OSError):
            raise FileTrouble("cannot make a base of", top.path, exc) from exc
        raise
    make_read_only(folder / name)
    return name
