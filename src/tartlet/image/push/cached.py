"""Give an image that is in a registry already more names there, or in another one: the same bytes, the same digest."""

from __future__ import annotations

import errno
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

import anyio
from anyio import to_thread

from tartlet.host.trouble import trouble_writing
from tartlet.image.format.manifest import Descriptor, Manifest, digest_of, read_manifest
from tartlet.image.format.piece_writer import CorruptBlob
from tartlet.image.format.reference import ImageName
from tartlet.image.progress import Counter, TransferProgress, TransferReport, silent
from tartlet.image.push.blobs import Destination
from tartlet.image.push.known_images import known_image
from tartlet.image.push.local_blobs import LocalBlobs
from tartlet.image.push.plan import Target, shown
from tartlet.image.push.push import Pushed
from tartlet.image.push.spool import FileSpool
from tartlet.image.registry.bodies import BlobBytes
from tartlet.image.registry.receive import Parts
from tartlet.image.registry.registry import Registries, Repository


async def copy_image(
    registries: Registries,
    targets: Sequence[Target],
    name: ImageName,
    manifest: bytes | None,
    *,
    local: LocalBlobs,
    scratch: Path,
    at_once: int = 4,
    chunk_size: int = 0,
    report: TransferReport = silent,
) -> Pushed:
    """Put the image `name` (by its digest) under every target.

    `manifest` are the bytes that were received with it, None when they were not kept. Blobs that a target lacks are
    mounted from the image's own repository, made of its files, or copied from there, through files in `scratch`.
    Raises BadManifest, CorruptBlob, FileTrouble and what `Repository` raises, in groups too.
    """
    source, sent = registries.repository(name.host, name.namespace), 0
    moved: set[str] = set()
    report(TransferProgress(f"pushing {shown(targets)}"))
    if manifest is None or digest_of(manifest) != name.digest:
        manifest = await source.manifest(name.reference)
    image = read_manifest(manifest)
    for target in targets:
        repository = registries.repository(target.host, target.namespace)
        destination = Destination(repository, target, chunk_size=chunk_size)
        if await destination.manifest(name.reference) is None:
            copying = _Copying(source, name, destination, local, scratch)
            await copying.run(image, f"copying {name} to {target}", report, max(1, at_once))
        await destination.name(manifest, image.media_type)
        sent += destination.sent
        moved |= destination.uploaded
    known = known_image(name, manifest)
    kept = sum(piece.size for piece in known.pieces if piece.blob.digest not in moved) if known else 0
    return Pushed(manifest=manifest, digest=digest_of(manifest), sent=sent, kept=kept)


class _Copying:
    """An image on its way from one repository to another."""

    def __init__(
        self, source: Repository, name: ImageName, destination: Destination, local: LocalBlobs, scratch: Path
    ) -> None:
        self._source, self._name, self._destination = source, name, destination
        self._local, self._scratch = local, scratch

    async def run(self, image: Manifest, stage: str, report: TransferReport, at_once: int) -> None:
        """Have all of its blobs there."""
        blobs = {blob.digest: blob for blob in (image.config, *image.layers)}
        counter = Counter(report, stage, sum(blob.size for blob in blobs.values()))
        waiting = iter(blobs.values())
        async with anyio.create_task_group() as tasks:
            for _ in range(min(at_once, len(blobs))):
                tasks.start_soon(self._work, waiting, counter)

    async def _work(self, waiting: Iterator[Descriptor], counter: Counter) -> None:
        with tempfile.TemporaryFile(dir=self._scratch, buffering=0) as file:
            spool = FileSpool(file.fileno())
            for blob in waiting:
                if await self._destination.obtained(blob, self._name):
                    counter.reuse(blob.size)
                    continue
                data = await self._made_here(blob, spool)
                await self._destination.send(blob, data or await self._fetched(blob, spool))
                counter.move(blob.size)

    async def _made_here(self, blob: Descriptor, spool: FileSpool) -> BlobBytes | None:
        try:
            return await self._local.blob(blob, spool)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):  # reading does not fail for that
                raise trouble_writing(self._scratch, exc) from exc
            raise

    async def _fetched(self, blob: Descriptor, spool: FileSpool) -> BlobBytes:
        """A whole, verified blob in the spool; one that came damaged is fetched once more."""
        digest, at = hashlib.sha256(), 0
        for _ in range(2):
            spool.clear()
            digest, at = hashlib.sha256(), 0
            async with aclosing(self._source.stream_blob(blob)) as body:
                async for parts in body:
                    await to_thread.run_sync(self._write, spool, parts, digest)
                    at += parts.size
                    if at > blob.size:
                        break
            if at == blob.size and f"sha256:{digest.hexdigest()}" == blob.digest:
                return spool.blob()
        raise CorruptBlob(blob.digest, f"the registry sent {at} bytes with the digest sha256:{digest.hexdigest()}")

    def _write(self, spool: FileSpool, parts: Parts, digest: hashlib._Hash) -> None:
        try:
            for part in parts:
                digest.update(part)
                spool.add([part])
        except OSError as exc:
            raise trouble_writing(self._scratch, exc) from exc
