"""Blobs of a cached image made anew from its files, so that they need not be fetched to be sent somewhere else.

The encoder gives the same bytes for the same piece, so an image that it made comes out as it was. Images that others
have made do not; that shows with the first piece, and then no other is tried.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from tartlet.errors import FileTrouble
from tartlet.image.cache.cached_image import CachedImage
from tartlet.image.format.layers import Region
from tartlet.image.format.layout import Piece
from tartlet.image.format.manifest import Descriptor, digest_of, read_manifest, usual_oci_config
from tartlet.image.format.source import DiskSource, raw_disk
from tartlet.image.push.encode import encode_piece
from tartlet.image.push.known_images import flat_layout_of
from tartlet.image.push.spool import Spool
from tartlet.image.registry.bodies import BlobBytes, from_bytes


class LocalBlobs:
    """What can be made of one image; nothing of a stacked one but its small parts."""

    def __init__(self, small: list[bytes], pieces: tuple[Piece, ...], disk: DiskSource | None) -> None:
        self._small = {digest_of(content): content for content in small}
        self._pieces = {piece.blob.digest: piece for piece in pieces}
        self._disk = disk

    async def blob(self, blob: Descriptor, spool: Spool) -> BlobBytes | None:
        """The bytes of a blob, which may lie in `spool`; None when they have to be fetched.

        Raises FileTrouble, OSError.
        """
        small, piece = self._small.get(blob.digest), self._pieces.get(blob.digest)
        if small is not None:
            return from_bytes(small)
        if piece is None or self._disk is None:
            return None
        layer, data = await encode_piece(self._disk, Region(piece.offset, piece.size), spool)
        if layer.digest == blob.digest:
            return data
        self._disk = None
        return None


@contextmanager
def local_blobs(image: CachedImage) -> Generator[LocalBlobs]:
    """The blobs of an image for the length of the block, in which it stays. Raises BadManifest, FileTrouble."""
    try:
        config, nvram = (path.read_bytes() for path in (image.config_path, image.nvram_path))
    except OSError as exc:
        raise FileTrouble("cannot read", image.path, exc) from exc
    small = [config, nvram, _oci_config(image, config)]
    manifest = image.manifest()
    is_whole = manifest is not None and digest_of(manifest) == image.digest
    layout = flat_layout_of(read_manifest(manifest)) if manifest is not None and is_whole else None
    if layout is None or not image.disk_path.exists():
        yield LocalBlobs(small, (), None)
        return
    with raw_disk(image.disk_path) as disk:
        yield LocalBlobs(small, layout.base.pieces, disk)


def _oci_config(image: CachedImage, vm_config: bytes) -> bytes:
    """What was kept of it, or what it most likely is: a pull keeps those that cannot be known."""
    try:
        return image.oci_config_path.read_bytes()
    except FileNotFoundError:
        return usual_oci_config(vm_config) or b""
    except OSError as exc:
        raise FileTrouble("cannot read", image.oci_config_path, exc) from exc
