"""An image from its registry into the cache of a home, with everything the home knows used again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from anyio import from_thread

from tartlet.disk.chain import chain_of
from tartlet.disk.model import DiskFormat
from tartlet.errors import UserError
from tartlet.image import origin
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.reference import ImageName
from tartlet.image.progress import TransferProgress, TransferReport, silent
from tartlet.image.pull.pull import Pulled, no_need
from tartlet.image.pull.pull import pull as pull_into
from tartlet.image.pull.reuse import LocalDisk
from tartlet.image.registry.registry import opened
from tartlet.vm.images.prune import reclaim
from tartlet.vm.stored.folder import VmFolder, declared_format
from tartlet.vm.stored.store import VmStore

log = logging.getLogger(__name__)


async def pull(
    store: VmStore,
    name: ImageName,
    *,
    insecure: bool = False,
    at_once: int = 4,
    auto_prune: bool = True,
    report: TransferReport = silent,
) -> Pulled:
    """Have the image `name` in the home's cache, as its registry has it now.

    Pieces of the disk that any cached image or any VM of the home has are not fetched. `insecure`: plain HTTP.
    `at_once`: parallel downloads. `auto_prune`: cached entries are removed if the disk would not fit otherwise.
    Ended early, by whatever, it leaves what the next pull of the image goes on with.
    Raises ImageNotInRegistry, StackedImage, BadManifest, NoSpace, FileTrouble, CorruptBlob, RegistryUnreachable,
    RegistryError, AuthenticationFailed; in groups too.
    """
    async with opened(insecure=insecure, at_once=at_once) as registries:
        repository = registries.repository(name.host, name.namespace)
        disks = partial(disks_of_images, store)
        return await pull_into(
            ImageCache(store.home),
            repository,
            name,
            at_once=at_once,
            local_disks=disks,
            make_room=partial(_make_room, store, report) if auto_prune else no_need,
            report=report,
        )


def _make_room(store: VmStore, report: TransferReport, size: int) -> None:
    """For a worker thread."""
    for one in reclaim(store, size, near=ImageCache(store.home).work_folders()):
        if one.removed:
            told = TransferProgress(f"removed {one.entry.name} {one.reason}")
            from_thread.run_sync(report, told)


def disks_of_images(store: VmStore) -> Iterator[LocalDisk]:
    """The raw disk files of VMs that began as images or were pushed: what they share with these is in them."""
    for vm in store.all():
        notes = (origin.read_manifest(vm.path, note) for note in (origin.ORIGIN, origin.LAST_PUSH))
        manifests = [manifest for manifest in notes if manifest is not None]
        try:
            files = _raw_files(vm) if manifests else []
        except UserError as exc:
            log.debug("nothing of VM %s is used again: %s", vm.name, exc)
            continue
        yield from (LocalDisk(manifest, path) for path in files for manifest in manifests)


def _raw_files(vm: VmFolder) -> list[Path]:
    """The bottom first: what stands below an overlay is unchanged."""
    chain = chain_of(vm.path, declared_format(vm))
    return [disk.path for disk in (*reversed(chain.bases), chain.top) if disk.format is DiskFormat.RAW]
