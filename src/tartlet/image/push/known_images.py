"""Images in registries whose layers a push can use again: what they hold, and where they can be had from.

A piece whose content another image has already keeps that image's layer: the same blob, whoever compressed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tartlet.errors import UserError
from tartlet.image.format.layers import Region
from tartlet.image.format.layout import Layout, Piece, looks_stacked, read_layout
from tartlet.image.format.manifest import Manifest, digest_of, read_manifest
from tartlet.image.format.reference import ImageName

Untouched = Callable[[Region], bool]
"""Whether a region was not written since the disk was the image's. Blocking, reads tables only. Raises OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownImage:
    """A flat image that is, or was, in a registry."""

    name: ImageName
    digest: str
    """Of its manifest."""
    layout: Layout
    untouched: Untouched | None = None
    """What knows without reading whether a region is still the image's. None when only the content can tell."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The layers of its disk."""
        return self.layout.base.pieces


@dataclass(frozen=True, slots=True)
class KnownLayer:
    """A layer that a region may be."""

    image: KnownImage
    piece: Piece


def known_image(name: ImageName, manifest: bytes | None, untouched: Untouched | None = None) -> KnownImage | None:
    """The image that a manifest describes; None when it is none that can be used (stacked, foreign, broken)."""
    if manifest is None:
        return None
    try:
        layout = flat_layout_of(read_manifest(manifest))
    except UserError:
        return None
    if layout is None:
        return None
    return KnownImage(name=name, digest=digest_of(manifest), layout=layout, untouched=untouched)


def flat_layout_of(manifest: Manifest) -> Layout | None:
    """The parts of an image if its disk is flat; None if it is stacked. Raises BadManifest."""
    return None if looks_stacked(manifest) else read_layout(manifest)


class KnownLayers:
    """The layers of several images by their place on the disk."""

    def __init__(self, images: Iterable[KnownImage]) -> None:
        self._found: dict[tuple[int, int], list[KnownLayer]] = {}
        for image in images:
            for piece in image.pieces:
                self._found.setdefault((piece.offset, piece.size), []).append(KnownLayer(image, piece))

    def at(self, region: Region) -> list[KnownLayer]:
        """The layers that images have for exactly this region, those of the first image first."""
        return self._found.get((region.offset, region.size), [])
