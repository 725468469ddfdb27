"""A stacked image of one block of zeros below one empty overlay, as a Mac makes them."""

from __future__ import annotations

from tartlet.image.format.manifest import (
    BLOCK_SIZE,
    DISK,
    DISK_SIZE,
    FILE_DIGEST,
    FILE_PIECES,
    NVRAM,
    OCI_CONFIG,
    OVERLAY,
    PIECE_DIGEST,
    PIECE_SIZE,
    UPLOAD_TIME,
    VM_CONFIG,
    Descriptor,
    Manifest,
    blob_descriptor,
    digest_of,
    oci_config,
)

BASE, OVERLAID = bytes(4096), b"shdw" + bytes(12)


_CONFIG, _NVRAM = b'{"version":1}', bytes(8)
_DARWIN = oci_config(architecture="arm64", system="darwin", disk_format="raw")


def stacked_manifest() -> Manifest:
    """Its manifest."""
    return Manifest(
        schema_version=2,
        config=blob_descriptor(OCI_CONFIG, _DARWIN),
        layers=(
            blob_descriptor(VM_CONFIG, _CONFIG),
            _layer(DISK, BASE),
            _layer(OVERLAY, OVERLAID, {FILE_PIECES: "1"}),
            blob_descriptor(NVRAM, _NVRAM),
        ),
        annotations={BLOCK_SIZE: "512", DISK_SIZE: "4096", UPLOAD_TIME: "2026-08-18T07:16:00Z"},
    )


def stacked_blobs() -> list[bytes]:
    """The bytes of everything that the manifest names."""
    return [_DARWIN, _CONFIG, _NVRAM, _stored(BASE), _stored(OVERLAID)]


def _stored(data: bytes) -> bytes:
    return b"bv4-" + len(data).to_bytes(4, "little") + data + b"bv4$"


def _layer(media_type: str, data: bytes, extra: dict[str, str] | None = None) -> Descriptor:
    annotations = {PIECE_SIZE: str(len(data)), PIECE_DIGEST: digest_of(data), FILE_DIGEST: digest_of(data)}
    blob = _stored(data)
    return Descriptor(
        media_type=media_type, size=len(blob), digest=digest_of(blob), annotations={**annotations, **(extra or {})}
    )
