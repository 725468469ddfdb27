"""Make an image of a VM at rest, in one or several repositories.

Each piece of the disk goes its own way, several at a time: a piece that another image is known to hold keeps that
image's layer and is at most hashed; zeros are not read; the rest is encoded into a spool and sent. The manifests
come last, so an interrupted push leaves nothing but blobs, which the next push finds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio

from tartlet.errors import UserError
from tartlet.image.format.manifest import (
    NVRAM,
    OCI_CONFIG,
    VM_CONFIG,
    Descriptor,
    Manifest,
    blob_descriptor,
    digest_of,
    flat_manifest,
)
from tartlet.image.format.source import DiskSource
from tartlet.image.progress import Counter, TransferProgress, TransferReport, silent
from tartlet.image.push.blobs import Destination, send_to_all
from tartlet.image.push.disk import push_disk
from tartlet.image.push.known_images import KnownImage
from tartlet.image.push.plan import PIECE_SIZE, Target, shown
from tartlet.image.registry.bodies import from_bytes
from tartlet.image.registry.errors import RegistryError
from tartlet.image.registry.registry import Registries

log = logging.getLogger(__name__)

_SMALL = (VM_CONFIG, NVRAM, OCI_CONFIG)


class NothingToPush(UserError):
    """A part that an image cannot be without is empty."""

    def __init__(self, what: str) -> None:
        super().__init__(f"there is no image without {what}", "run the VM once, or restore the file")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSource:
    """A VM at rest: what its image will hold."""

    vm_config: bytes
    oci_config: bytes
    nvram: bytes
    disk: DiskSource
    known: Sequence[KnownImage] = ()
    """Images that the disk may have pieces of, the likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a push came to."""

    manifest: bytes
    digest: str
    """Of the manifest: the image's identity."""
    sent: int
    """Bytes of blobs that were uploaded, over all repositories."""
    kept: int
    """Bytes of the disk that did not have to be."""


async def push_image(
    registries: Registries,
    targets: Sequence[Target],
    source: PushSource,
    *,
    scratch: Path,
    at_once: int = 4,
    chunk_size: int = 0,
    piece_size: int = PIECE_SIZE,
    report: TransferReport = silent,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Pushed:
    """Push an image to every target; all get the same manifest.

    `at_once` pieces go side by side, each through a spool, which for large pieces is a file in `scratch`;
    `chunk_size` bytes of a blob go into one request, 0 for all of them.
    Raises NothingToPush, BadManifest, FileTrouble, OSError and what `Repository` raises, in groups too.
    """
    if not source.nvram:
        raise NothingToPush("firmware variables, and nvram.bin is empty")
    if not source.disk.size:
        raise NothingToPush("a disk, and disk.img is empty")
    destinations = [
        Destination(registries.repository(one.host, one.namespace), one, chunk_size=chunk_size) for one in targets
    ]
    stage = f"pushing {shown(targets)}"
    report(TransferProgress(stage))
    flow = _Flow(destinations, source, scratch, max(1, at_once), piece_size)
    known = await flow.known()
    while True:
        counter = Counter(report, stage, source.disk.size)
        manifest = (await flow.blobs(known, counter, now())).encoded()
        if await flow.finish(manifest):
            break
    sent = sum(destination.sent for destination in destinations)
    return Pushed(manifest=manifest, digest=digest_of(manifest), sent=sent, kept=counter.reused)


class _Flow:
    """One push on its way."""

    def __init__(
        self,
        destinations: Sequence[Destination],
        source: PushSource,
        scratch: Path,
        at_once: int,
        piece_size: int,
    ) -> None:
        self._destinations, self._source, self._scratch = destinations, source, scratch
        self._at_once, self._piece_size = at_once, piece_size
        self._is_distrustful = False

    async def known(self) -> list[KnownImage]:
        """Images whose pieces need not be encoded again: the source's own, and what the names stand for now."""
        known = list(self._source.known)
        for destination in self._destinations:
            for image in self._source.known:
                await destination.trust(image)
            known += await destination.images()
        return known

    async def blobs(self, known: Sequence[KnownImage], counter: Counter, uploaded: datetime) -> Manifest:
        """Have all blobs in the repositories; the manifest that names them."""
        small = await self._small_blobs()
        disk = await push_disk(
            self._source.disk,
            self._destinations,
            known,
            counter,
            scratch=self._scratch,
            at_once=self._at_once,
            piece_size=self._piece_size,
        )
        return flat_manifest(
            vm_config=small[VM_CONFIG],
            disk=disk,
            nvram=small[NVRAM],
            oci_config=small[OCI_CONFIG],
            disk_size=self._source.disk.size,
            uploaded=uploaded,
        )

    async def finish(self, manifest: bytes) -> bool:
        """Give the image its names. False when a registry lacks blobs that it should have: then all are asked for."""
        try:
            for destination in self._destinations:
                await destination.name(manifest)
        except RegistryError as exc:
            if self._is_distrustful or "BLOB_UNKNOWN" not in str(exc):
                raise
            log.info("blobs that were there are gone; sending what is missing: %s", exc)
            self._is_distrustful = True
            for destination in self._destinations:
                destination.distrust()
            return False
        return True

    async def _small_blobs(self) -> dict[str, Descriptor]:
        """Have everything but the disk in the repositories; the layers by their types."""
        contents = dict(zip(_SMALL, (self._source.vm_config, self._source.nvram, self._source.oci_config), strict=True))
        layers = {kind: blob_descriptor(kind, content) for kind, content in contents.items()}
        async with anyio.create_task_group() as tasks:
            for kind, content in contents.items():
                tasks.start_soon(send_to_all, self._destinations, layers[kind], from_bytes(content))
        return layers
