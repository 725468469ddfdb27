"""What an image consists of: the rules for the order and the annotations of its layers.

An image is *flat* (one self-contained disk) or *stacked* (an immutable base and overlays in Apple's sparse format,
which only macOS 27 can join). The rules are checked before any blob is fetched: a reader that takes the disk layers it
knows and ignores the rest would boot the parent's disk under the child's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tartlet.errors import UserError
from tartlet.image.format.manifest import (
    BLOCK_SIZE,
    DISK,
    DISK_SIZE,
    FILE_DIGEST,
    FILE_PIECES,
    LEGACY_DISK,
    NVRAM,
    OVERLAY,
    OVERLAY_FAMILY,
    PIECE_DIGEST,
    PIECE_SIZE,
    VM_CONFIG,
    BadManifest,
    Descriptor,
    Manifest,
)
from tartlet.image.format.reference import is_digest

_LARGEST = 2**64 - 1

_LARGEST_FILE = 2**63 - 1
"""Bytes that a file can have at most: offsets are signed."""

_MOST_A_BYTE = 255
"""Bytes of a disk that one byte of an LZ4 block stands for at most (LZ4's lz4_Block_format.md, "Literals")."""


class StackedImage(UserError):
    """The image's disk is made of layers that only a Mac can join."""

    def __init__(self, name: object) -> None:
        super().__init__(
            f"{name} has a stacked disk, which only macOS 27 or newer can put together",
            "pull it on a Mac, or ask its publisher for an image with a flat disk",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One layer of a disk: the blob, and the region of the file that it becomes."""

    blob: Descriptor
    offset: int
    size: int
    """Bytes of the region, uncompressed."""

    content_digest: str
    """Digest of the region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFile:
    """One file of the image, made of its pieces side by side without gaps."""

    pieces: tuple[Piece, ...]
    digest: str | None
    """Digest of the whole file, where the image tells it."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.pieces[-1].offset + self.pieces[-1].size


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The parts of an image whose manifest keeps all rules."""

    oci_config: Descriptor
    """The stub of a container's config, which only registries look at."""

    vm_config: Descriptor
    nvram: Descriptor
    base: DiskFile
    overlays: tuple[DiskFile, ...]
    """From the bottom up; none in a flat image."""

    disk_size: int
    """Bytes of the disk that the guest sees. In a flat image those of the base."""

    block_size: int | None

    @property
    def block_count(self) -> int | None:
        """Blocks of a stacked disk; None when the image does not tell a size that can be divided into blocks."""
        if not self.block_size or self.disk_size % self.block_size:
            return None
        return self.disk_size // self.block_size


def looks_stacked(manifest: Manifest) -> bool:
    """Whether any layer is an overlay, also of a version that is not known yet."""
    return any(layer.media_type.startswith(OVERLAY_FAMILY) for layer in manifest.layers)


def read_layout(manifest: Manifest) -> Layout:
    """The parts of the image. Raises BadManifest when a rule is broken."""
    _check_frame(manifest)
    vm_config, *disk, nvram = manifest.layers
    count = next((place for place, layer in enumerate(disk) if layer.media_type != DISK), len(disk))
    base, overlays = _base(disk[:count]), _overlays(disk[count:])
    if overlays and base.digest is None:
        raise BadManifest("the stacked image does not tell the digest of its base disk")
    told = _number(manifest.annotation(DISK_SIZE))
    return Layout(
        oci_config=manifest.config,
        vm_config=vm_config,
        nvram=nvram,
        base=base,
        overlays=overlays,
        disk_size=told if overlays and told is not None else base.size,
        block_size=_number(manifest.annotation(BLOCK_SIZE)),
    )


def flat_layout(manifest: Manifest, name: object) -> Layout:
    """The parts of an image that this host can use. Raises StackedImage for `name` when it cannot, and BadManifest."""
    if looks_stacked(manifest):
        raise StackedImage(name)
    layout = read_layout(manifest)
    _check_sizes(layout.base)
    if layout.block_size is None:
        _check_total(layout.base, _number(manifest.annotation(DISK_SIZE)))
    return layout


def total_size(sizes: Sequence[int]) -> int | None:
    """The sum of sizes in bytes, or None when it does not fit the format's unsigned 64 bits."""
    total = sum(sizes)
    return total if total <= _LARGEST else None


def _check_frame(manifest: Manifest) -> None:
    types = [layer.media_type for layer in manifest.layers]
    if LEGACY_DISK in types:
        raise BadManifest(
            "the image's disk has the format of 2023, which is no longer read",
            "push the VM again with a current version",
        )
    strange = [kind for kind in types if kind not in (VM_CONFIG, DISK, OVERLAY, NVRAM)]
    if strange:
        raise BadManifest(
            f"not a VM image that is understood here: it has a layer of type {strange[0]}",
            "it may be an image of a container or of another program; tart pulls VMs that `tart push` has made",
        )
    for kind, what, place in ((VM_CONFIG, "VM config", 0), (NVRAM, "NVRAM", len(types) - 1)):
        if types.count(kind) != 1:
            raise BadManifest(f"an image has exactly one {what} layer, this one has {types.count(kind)}")
        if types[place] != kind:
            raise BadManifest(f"the layers are out of order: {what} is not the {'last' if place else 'first'} one")
    if DISK not in types or types[1] != DISK:
        raise BadManifest("the image has no disk layer after its VM config")


def _base(layers: Sequence[Descriptor]) -> DiskFile:
    for place, layer in enumerate(layers):
        if layer.annotation(FILE_PIECES) is not None:
            raise BadManifest("a layer of the base disk carries a chunk count, which only overlays have")
        if place and layer.annotation(FILE_DIGEST) is not None:
            raise BadManifest("only the first layer of the base disk may carry the digest of the whole disk")
    return _file(layers, _digest(layers[0], FILE_DIGEST))


def _overlays(layers: Sequence[Descriptor]) -> tuple[DiskFile, ...]:
    files: list[DiskFile] = []
    left = list(layers)
    while left:
        digest, count = _digest(left[0], FILE_DIGEST), _number(left[0].annotation(FILE_PIECES))
        if digest is None or not count:
            raise BadManifest("the first layer of an overlay needs the digest of the whole overlay and a chunk count")
        if count > len(left):
            raise BadManifest(f"an overlay announces {count} layers, only {len(left)} are left")
        group, left = left[:count], left[count:]
        _check_overlay_group(group)
        files.append(_file(group, digest))
    return tuple(files)


def _check_overlay_group(group: Sequence[Descriptor]) -> None:
    for place, layer in enumerate(group):
        if layer.media_type != OVERLAY:
            raise BadManifest("a base layer stands after an overlay has begun")
        if place and (layer.annotation(FILE_DIGEST) is not None or layer.annotation(FILE_PIECES) is not None):
            raise BadManifest("an overlay begins before the one below it is complete")


def _file(layers: Sequence[Descriptor], digest: str | None) -> DiskFile:
    pieces: list[Piece] = []
    offset = 0
    for layer in layers:
        size, content = _number(layer.annotation(PIECE_SIZE)), _digest(layer, PIECE_DIGEST)
        if size is None or content is None:
            raise BadManifest("a disk layer lacks its uncompressed size or content digest")
        pieces.append(Piece(blob=layer, offset=offset, size=size, content_digest=content))
        offset += size
    if total_size([piece.size for piece in pieces]) is None:
        raise BadManifest("the sizes of the disk's layers add up to more than 64 bits hold")
    return DiskFile(pieces=tuple(pieces), digest=digest)


def _check_sizes(disk: DiskFile) -> None:
    """Nobody makes room, or hashes zeros, for a disk that its layers cannot hold."""
    for piece in disk.pieces:
        if piece.size > piece.blob.size * _MOST_A_BYTE:
            raise BadManifest(f"a disk layer of {piece.blob.size} bytes cannot hold {piece.size} bytes of a disk")
    if disk.size > _LARGEST_FILE:
        raise BadManifest(f"no file can have the {disk.size} bytes of its disk")


def _check_total(disk: DiskFile, told: int | None) -> None:
    """A manifest that layers were lost from, or that has others, would make a disk that its guest cannot use.

    The length of the disk's file is told, of whatever format. An image with a block size tells what the guest sees.
    """
    if told not in (None, disk.size):
        raise BadManifest(f"its layers hold {disk.size} bytes of a disk that is said to have {told}")


def _digest(layer: Descriptor, key: str) -> str | None:
    text = layer.annotation(key)
    if text is not None and not is_digest(text):
        raise BadManifest(f"the annotation {key} is no SHA-256 digest: {text!r}")
    return text


def _number(text: str | None) -> int | None:
    """An annotation's decimal number, or None when there is none. Raises BadManifest when it is not one."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= _LARGEST):
        raise BadManifest(f"an annotation is no number of at most 64 bits: {text!r}")
    return int(text)
