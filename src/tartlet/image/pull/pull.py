"""Bring an image from a registry into the cache.

Nothing is visible in the cache before all of it was verified. Until then it grows in a work folder that is found by
the manifest's digest: whoever pulls the same image waits for the one who does it already, whoever was interrupted, by
whatever, goes on where that was.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio import to_thread

from tartlet.host import access_time
from tartlet.host.files import removed, write_whole
from tartlet.host.trouble import trouble_writing
from tartlet.image.cache.cache import ImageCache
from tartlet.image.cache.cached_image import CachedImage
from tartlet.image.cache.twins import linked_twin
from tartlet.image.format.layout import Layout, flat_layout
from tartlet.image.format.manifest import BadManifest, digest_of, read_manifest
from tartlet.image.format.reference import ImageName
from tartlet.image.progress import Counter, TransferProgress, TransferReport, silent
from tartlet.image.pull.disk import disk_in_progress
from tartlet.image.pull.reuse import LocalDisk, LocalPieces
from tartlet.image.pull.small_parts import BROKEN_IMAGE, fetch_small_parts
from tartlet.image.pull.work import JOURNAL, WorkFolder, claim
from tartlet.image.registry.errors import ImageNotInRegistry, NotInRegistry
from tartlet.image.registry.registry import Repository
from tartlet.units import MIB

SPARE_ROOM = 128 * MIB
"""Bytes beside the disk that should be free."""

LEAST_ROOM = 8 * MIB
"""Bytes that should be free before anything is written: what comes before the disk, and tables of shared blocks."""

_POLL = 0.2
"""Seconds between two looks at another process's pull."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteImage:
    """An image as its registry tells about it, checked as far as that goes."""

    name: ImageName
    manifest: bytes
    digest: str
    layout: Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What a pull came to."""

    image: CachedImage
    was_cached: bool
    """Nothing had to be fetched but the manifest."""
    received: int = 0
    """Bytes of blobs that came from the registry."""
    reused: int = 0
    """Bytes of blobs that did not have to."""


def no_disks() -> Iterable[LocalDisk]:
    """No disks but those in the cache."""
    return ()


def no_need(size: int) -> None:
    """There is always room."""
    del size


async def look_up(repository: Repository, name: ImageName) -> RemoteImage:
    """What a name stands for in its registry now.

    Raises ImageNotInRegistry, StackedImage, BadManifest, and what `Repository` raises.
    """
    try:
        raw = await repository.manifest(name.reference)
    except NotInRegistry as exc:
        await _refuse_other_kind(repository, name)
        raise ImageNotInRegistry(name, exc) from exc
    try:
        layout = flat_layout(read_manifest(raw), name)
    except BadManifest as exc:
        raise BadManifest(f"{name} cannot be used: {exc}", exc.hint or BROKEN_IMAGE) from exc
    return RemoteImage(name=name, manifest=raw, digest=digest_of(raw), layout=layout)


async def _refuse_other_kind(repository: Repository, name: ImageName) -> None:
    """Say so when the name belongs to a container's image, of which registries that look at types do not tell."""
    kind = await repository.other_kind(name.reference)
    if kind:
        raise BadManifest(f"{name} is no VM image, its type is {kind}", "a container's image cannot be run as a VM")


async def pull(
    cache: ImageCache,
    repository: Repository,
    name: ImageName,
    *,
    at_once: int = 4,
    local_disks: Callable[[], Iterable[LocalDisk]] = no_disks,
    make_room: Callable[[int], None] = no_need,
    report: TransferReport = silent,
) -> Pulled:
    """Have the image of that name in the cache, and the name lead to it.

    `at_once` pieces of the disk are fetched side by side. `local_disks` are disks outside of the cache whose pieces
    can be used again. `make_room` is called from a worker thread with the bytes that should be free.

    Ended early, by a failure, cancellation or a kill, it leaves a work folder with which the next pull goes on.
    Raises ImageNotInRegistry, StackedImage, BadManifest, NoSpace, FileTrouble, CorruptBlob, and what `Repository`
    raises; in groups too.
    """
    report(TransferProgress(f"pulling {name}"))
    remote = await look_up(repository, name)
    cached = cache.cached(name)
    if name.tag and cached and cached.digest == remote.digest:
        return Pulled(image=cached, was_cached=True)
    while True:
        image = await to_thread.run_sync(cache.link, name, remote.digest)
        if not image:
            image = await to_thread.run_sync(linked_twin, cache, name, remote.digest)
        if image:
            return Pulled(image=image, was_cached=True)
        await to_thread.run_sync(make_room, LEAST_ROOM)
        async with _alone(cache, remote, report) as work:
            if work:
                fetching = _Fetching(cache, repository, remote, work, local_disks, make_room, report)
                return await fetching.run(at_once)


@asynccontextmanager
async def _alone(cache: ImageCache, remote: RemoteImage, report: TransferReport) -> AsyncGenerator[WorkFolder | None]:
    """The image's work folder when nobody else has it any more; None when the image is there then."""
    told = False
    by_digest = remote.name.at_digest(remote.digest)
    while (work := claim(cache, remote.digest)) is None:
        if not told:
            report(TransferProgress(f"waiting for another pull of {remote.name}"))
            told = True
        await anyio.sleep(_POLL)
    try:
        is_there = cache.cached(by_digest) is not None
        if is_there:
            work.discard()
        yield None if is_there else work
    finally:
        work.release()


@dataclass(frozen=True, slots=True)
class _Fetching:
    """One image on its way into the cache."""

    cache: ImageCache
    repository: Repository
    remote: RemoteImage
    work: WorkFolder
    local_disks: Callable[[], Iterable[LocalDisk]]
    make_room: Callable[[int], None]
    report: TransferReport

    async def run(self, at_once: int) -> Pulled:
        layout = self.remote.layout
        await to_thread.run_sync(self._begin)
        blobs = (layout.oci_config, layout.vm_config, layout.nvram, *(piece.blob for piece in layout.base.pieces))
        counter = Counter(self.report, f"pulling {self.remote.name}", sum(blob.size for blob in blobs))
        async with disk_in_progress(self.cache, self.work, layout.base) as disk:
            pieces = await to_thread.run_sync(self._pieces_here)
            await disk.share(pieces, counter, at_once)
            await to_thread.run_sync(self._have_room, disk.room_needed)
            await fetch_small_parts(self.repository, self.remote.name, layout, self.work, counter)
            await disk.complete(self.repository, pieces, counter, at_once)
        image = await to_thread.run_sync(self._install)
        return Pulled(image=image, was_cached=False, received=counter.moved, reused=counter.reused)

    def _begin(self) -> None:
        try:
            write_whole(self.work.manifest_path, self.remote.manifest)
        except OSError as exc:
            raise trouble_writing(self.work.manifest_path, exc) from exc

    def _have_room(self, needed: int) -> None:
        """Ask for room; the image that the tag has led to is the first to go."""
        old = self.cache.cached(self.remote.name)
        if old:
            access_time.mark(old.path, 0)
        self.make_room(needed + SPARE_ROOM)

    def _pieces_here(self) -> LocalPieces:
        cached = [(image.manifest(), image.disk_path) for image in self.cache.images()]
        disks = [LocalDisk(manifest, path) for manifest, path in cached if manifest is not None]
        return LocalPieces([*disks, *self.local_disks()])

    def _install(self) -> CachedImage:
        self.work.finish()
        image = self.cache.install(self.work.path, self.remote.name, self.remote.digest)
        removed(image.path / JOURNAL)
        return image
