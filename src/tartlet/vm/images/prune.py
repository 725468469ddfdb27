"""Removing what a home can do without: by age, to a budget, or as much as something else needs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from tartlet.errors import FileTrouble
from tartlet.host import access_time, scratch
from tartlet.host.locks import file_lock, lock_holder
from tartlet.host.paths import Home
from tartlet.image.cache.cache import ImageCache
from tartlet.image.cache.prunables import Candidate, candidates, plain, weighed
from tartlet.image.cache.prune import Kind, Prunable, Pruned, Pruning
from tartlet.units import human_size
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import VmState
from tartlet.vm.stored.store import VmMissing, VmRunning, VmStore

log = logging.getLogger(__name__)

DAY = 24 * 3600


def prune(
    store: VmStore,
    *,
    vms: bool = False,
    unused: bool = False,
    older_than: int | None = None,
    budget: int | None = None,
    dry_run: bool = False,
) -> list[Pruned]:
    """Remove entries of the caches, or with `vms` local VMs that do not run; gives what was decided, in this order.

    `unused`: images that no name leads to, and what ended commands left. `older_than`: what was not used for that many
    days. `budget`: what finds no room in that many bytes when the most recently used are counted first. `dry_run`:
    nothing is removed. What another process uses stays, and so does a cached disk that a VM stands on. Raises
    FileTrouble.
    """
    with file_lock(store.home.cache):
        of_caches = Pruning(cache_entries(store), dry_run=dry_run)
        pruning = Pruning(vm_entries(store), dry_run=dry_run) if vms else of_caches
        if unused:
            _collect(store, of_caches, dry_run=dry_run)
        if older_than is not None:
            reason = f"not used for {older_than} day{'' if older_than == 1 else 's'}"
            pruning.older_than(time.time() - older_than * DAY, reason)
        if budget is not None:
            pruning.within(budget, f"no room in the budget of {human_size(budget)}")
        return pruning.decisions if pruning is of_caches else [*of_caches.decisions, *pruning.decisions]


def reclaim(store: VmStore, needed: int, *, spare: Collection[Path] = (), near: Path | None = None) -> list[Pruned]:
    """Have `needed` bytes free on the caches' file system, the least recently used cached entries removed for that.

    Nothing is removed when there is room enough, when everything together would not make enough, or when `near`, where
    the room is needed, is on another file system. Local VMs are never removed, nor what is in the folders `spare`.
    Waits for another prune, which may make room enough. Raises FileTrouble.
    """
    home = store.home
    with file_lock(home.cache):
        free = _free(home.cache)
        if free is None or needed <= free or (near and not _same_file_system(near, home.cache)):
            return []
        pruning = Pruning(cache_entries(store))
        given = pruning.reclaim(needed - free, f"to make room for {human_size(needed)}", spare)
        log.debug("%d bytes were wanted and %d free; %d were given back", needed, free, given)
        return pruning.decisions


def cache_entries(store: VmStore) -> list[Prunable]:
    """Everything in the caches: what can be fetched or built again. Raises FileTrouble."""
    home = store.home
    found = [*candidates(home), *_guests(home), *_downloads(home)]
    return weighed(found, [vm.path for vm in store.all()])


def vm_entries(store: VmStore) -> list[Prunable]:
    """The local VMs that do not run. Raises FileTrouble."""
    cached = [image.path for image in ImageCache(store.home).images()]
    return weighed(_vms(store), cached)


def _vms(store: VmStore) -> Iterator[Candidate]:
    for vm in store.all():
        with suppress(FileNotFoundError):
            if vm.state() is not VmState.RUNNING:
                yield _vm(store, vm)


def _vm(store: VmStore, vm: VmFolder) -> Candidate:
    def remove() -> bool:
        try:
            store.delete(vm.name)
        except VmRunning:
            return False
        except VmMissing:
            log.debug("VM %s was removed by somebody else", vm.name)
        return True

    return Candidate(
        kind=Kind.VM,
        name=vm.name,
        path=vm.path,
        accessed=access_time.of(vm.path),
        remove=remove,
        is_used=lambda: lock_holder(vm.config_path) != 0,
    )


def _guests(home: Home) -> Iterator[Candidate]:
    from tartlet.build.distro_cache import kept_guests  # brings an event loop, which an empty cache can do without

    place = ImageCache(home).work_folders()
    for folder, words in kept_guests(home.cache / "distros"):
        with suppress(FileNotFoundError):
            yield plain(Kind.GUEST, words, folder, access_time.of(folder), place)


def _downloads(home: Home) -> Iterator[Candidate]:
    from tartlet.build.download_cache import kept_downloads

    place = ImageCache(home).work_folders()
    for kept in kept_downloads(home.cache / "downloads"):
        with suppress(FileNotFoundError):
            accessed = access_time.of(kept.main)
            yield plain(Kind.DOWNLOAD, kept.address, kept.main, accessed, place, more=kept.more, lock=kept.lock)


def _collect(store: VmStore, pruning: Pruning, *, dry_run: bool) -> None:
    """Needs a pruning of the caches."""
    home, cache = store.home, ImageCache(store.home)
    pruning.these({cache.path(name) for name in cache.unused()}, "no name leads to it")
    for entry in weighed(_left_over(home)):
        if not entry.is_used():
            pruning.decisions.append(Pruned(entry=entry, reason="its command has ended", freed=entry.size))
    if not dry_run:
        cache.collect()
        scratch.collect(home.tmp)


def _left_over(home: Home) -> Iterator[Candidate]:
    for path in scratch.left_over(home.tmp):
        with suppress(FileNotFoundError):
            if not path.is_symlink():
                yield plain(Kind.LEFT_OVER, path.name, path, os.stat(path).st_mtime, home.tmp)


def _free(folder: Path) -> int | None:
    """Bytes that ordinary users can still write on the file system of a folder; None when it does not tell its size."""
    try:
        found = os.statvfs(folder)
    except OSError as exc:
        raise FileTrouble("cannot look at", folder, exc) from exc
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def _same_file_system(one: Path, other: Path) -> bool:
    try:
        return os.stat(one).st_dev == os.stat(other).st_dev
    except OSError as exc:
        raise FileTrouble("cannot look at", one, exc) from exc
