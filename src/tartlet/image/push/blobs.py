"""Blobs into all repositories of one push: each is sent once to each, and not at all where it can be had otherwise."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio

from tartlet.image.format.manifest import MANIFEST, Descriptor
from tartlet.image.format.reference import ImageName
from tartlet.image.push.known_images import KnownImage, known_image
from tartlet.image.push.plan import Target
from tartlet.image.registry.bodies import BlobBytes
from tartlet.image.registry.errors import AuthenticationFailed, RegistryError
from tartlet.image.registry.registry import Repository
from tartlet.image.registry.upload import mount_blob, push_blob

log = logging.getLogger(__name__)

_NOT_FOR_US = {401, 403, 404}
"""Answers to a question about a repository that may not exist, or that one may write to and not read."""


class Destination:
    """One repository that is pushed to, and what is known to be there.

    Pieces may ask for the same blob at the same time (those of nothing but zeros do): one of them does the work.
    """

    def __init__(self, repository: Repository, target: Target, *, chunk_size: int = 0) -> None:
        self.repository, self.target = repository, target
        self.sent = 0
        """Bytes of blobs that had to be uploaded."""
        self.uploaded: set[str] = set()
        """Their digests."""
        self._chunk_size = chunk_size
        self._there: set[str] = set()
        self._busy: dict[str, anyio.Lock] = {}
        self._refused: set[str] = set()
        """Repositories of this registry that it mounts no blobs from."""

    async def manifest(self, reference: str) -> bytes | None:
        """What a tag or digest stands for there now; None also where that may not be seen. Raises as `Repository`."""
        try:
            return await self.repository.manifest(reference)
        except AuthenticationFailed as exc:
            log.debug("%s cannot be looked at: %s", self.target, exc)
        except RegistryError as exc:
            if exc.status not in _NOT_FOR_US:
                raise
            log.debug("%s has no %s: %s", self.target, reference, exc)
        return None

    async def images(self) -> list[KnownImage]:
        """What the names that are pushed to stand for now; their blobs are there. Raises as `Repository`."""
        found = [known_image(name, await self.manifest(name.reference)) for name in self.target.names]
        images = [image for image in found if image]
        for image in images:
            self._take(image)
        return images

    async def trust(self, image: KnownImage) -> None:
        """Take the blobs of an image for being there if its manifest is: a registry keeps them as long."""
        if self._is_home_of(image.name) and await self.manifest(image.digest) is not None:
            self._take(image)

    async def name(self, manifest: bytes, media_type: str = MANIFEST) -> None:
        """Let every name lead to the image. Raises as `Repository`."""
        for name in self.target.names:
            await self.repository.put_manifest(name.reference, manifest, media_type)

    def distrust(self) -> None:
        """Ask for every blob from now on."""
        self._there.clear()

    async def can_have(self, blob: Descriptor, source: ImageName) -> bool:
        """Whether the blob is there, or might be mounted from the repository of `source`. Raises as `Repository`."""
        if blob.digest in self._there or self._might_mount(source):
            return True
        return await self._is_there(blob)

    async def obtained(self, blob: Descriptor, source: ImageName) -> bool:
        """Have the blob there, if that is possible without sending it. Raises as `Repository`."""
        async with self._alone(blob.digest):
            if blob.digest in self._there or await self._is_there(blob):
                return True
            if not self._might_mount(source):
                return False
            if await mount_blob(self.repository, blob.digest, source.namespace):
                self._there.add(blob.digest)
                return True
            log.debug("%s mounts nothing from %s", self.target, source.namespace)
            self._refused.add(source.namespace)
            return False

    async def send(self, blob: Descriptor, data: BlobBytes, *, mount_from: str | None = None) -> int:
        """Have the blob there; returns the bytes that had to be sent. Raises as `Repository`."""
        async with self._alone(blob.digest):
            if blob.digest in self._there:
                return 0
            sent = await push_blob(self.repository, blob, data, chunk_size=self._chunk_size, mount_from=mount_from)
            if sent:
                self.sent += sent
                self.uploaded.add(blob.digest)
            self._there.add(blob.digest)
            return sent

    async def _is_there(self, blob: Descriptor) -> bool:
        if not await self.repository.has_blob(blob.digest):
            return False
        self._there.add(blob.digest)
        return True

    def _take(self, image: KnownImage) -> None:
        self._there.update(piece.blob.digest for piece in image.pieces)

    def _is_home_of(self, name: ImageName) -> bool:
        return (name.host, name.namespace) == (self.target.host, self.target.namespace)

    def _might_mount(self, source: ImageName) -> bool:
        is_elsewhere = source.host == self.target.host and source.namespace != self.target.namespace
        return is_elsewhere and source.namespace not in self._refused

    def _alone(self, digest: str) -> anyio.Lock:
        return self._busy.setdefault(digest, anyio.Lock())


async def send_to_all(destinations: Sequence[Destination], blob: Descriptor, data: BlobBytes) -> int:
    """Have a blob in every destination; those of one registry take it from the first. Returns the bytes sent.

    Raises as `Repository`.
    """
    sent, first = 0, dict[str, str]()
    for destination in destinations:
        host, namespace = destination.target.host, destination.target.namespace
        sent += await destination.send(blob, data, mount_from=first.setdefault(host, namespace))
    return sent
