"""A VM of this machine, or an image in the cache, becomes an image under one or many names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anyio import to_thread

from tartlet.image import origin
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.reference import ImageName, looks_remote, parse
from tartlet.image.progress import TransferReport, silent
from tartlet.image.push.cached import copy_image
from tartlet.image.push.local_blobs import local_blobs
from tartlet.image.push.plan import PIECE_SIZE, Target, targets_of
from tartlet.image.push.populate import filled_from, filled_with, populate
from tartlet.image.push.push import Pushed, push_image
from tartlet.image.registry.registry import opened
from tartlet.vm.images.push_source import at_rest
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.store import VmStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """How to push."""

    insecure: bool = False
    """Speak plain HTTP."""
    at_once: int = 4
    """Pieces of the disk on their way at the same time."""
    chunk_size: int = 0
    """Bytes of a blob in one request; 0 for all of them."""
    piece_size: int = PIECE_SIZE
    """Bytes of the disk in a new layer."""
    labels: Mapping[str, str] | None = None
    """For the image's OCI config. An image that is in a registry already keeps its own."""
    populate_cache: bool = False
    """Have the image in the cache too, under the same names."""


async def push(
    store: VmStore,
    source: str,
    names: Sequence[ImageName],
    options: PushOptions | None = None,
    *,
    report: TransferReport = silent,
) -> Pushed:
    """Push the VM or cached image `source` under every name; all get the same manifest.

    A VM must not run, and cannot be started meanwhile. Only what a registry does not have yet is sent. Ended early, it
    leaves blobs that the next push does not send again.
    Raises VmMissing, VmIncomplete, VmRunning, StackedVm, ImageMissing, BadConfig, NothingToPush, DigestChosen,
    UnreadableDisk, FileTrouble, and what `Repository` raises; in groups too.
    """
    way = _push_image if looks_remote(source) else _push_vm
    return await way(store, source, names, options or PushOptions(), report)


async def _push_vm(
    store: VmStore, name: str, names: Sequence[ImageName], options: PushOptions, report: TransferReport
) -> Pushed:
    vm, cache, targets = store.open(name), ImageCache(store.home), targets_of(names)
    with at_rest(vm, cache, options.labels) as resting:
        source = resting.source
        async with opened(insecure=options.insecure, at_once=options.at_once) as registries:
            pushed = await push_image(
                registries,
                targets,
                source,
                scratch=store.home.tmp,
                at_once=options.at_once,
                chunk_size=options.chunk_size,
                piece_size=options.piece_size,
                report=report,
            )
        _note(vm, targets[0].names[0], pushed)
        if options.populate_cache:
            fill = filled_with(source, resting.whole_disk)
            await _populate(cache, targets, pushed, fill)
    return pushed


async def _push_image(
    store: VmStore, name: str, names: Sequence[ImageName], options: PushOptions, report: TransferReport
) -> Pushed:
    cache = ImageCache(store.home)
    image = cache.open(parse(name))
    targets = targets_of(names, digest=image.digest)
    with cache.using(image), local_blobs(image) as local:
        async with opened(insecure=options.insecure, at_once=options.at_once) as registries:
            pushed = await copy_image(
                registries,
                targets,
                image.name,
                image.manifest(),
                local=local,
                scratch=store.home.tmp,
                at_once=options.at_once,
                chunk_size=options.chunk_size,
                report=report,
            )
        if options.populate_cache:
            await _populate(cache, targets, pushed, filled_from(image))
    return pushed


async def _populate(cache: ImageCache, targets: Sequence[Target], pushed: Pushed, fill: Callable[[Path], None]) -> None:
    for target in targets:
        work = partial(populate, cache, target, pushed.digest, pushed.manifest, fill)
        image = await to_thread.run_sync(work)
        fill = filled_from(image)  # the other repositories' images share its files


def _note(vm: VmFolder, name: ImageName, pushed: Pushed) -> None:
    """For the next push of this VM, which then need not encode what did not change."""
    try:
        origin.write_last_push(vm.path, origin.Origin(name, pushed.digest), pushed.manifest)
    except OSError as exc:  # the image is complete all the same
        log.warning("cannot note in %s what was pushed: %s", vm.path, exc)
