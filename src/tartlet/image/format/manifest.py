"""The JSON documents of an image, as types and as exact bytes.

Sources: OCI image-spec (manifest.md, descriptor.md, config.md) for the fields; the bytes are those that Foundation's
JSON encoder writes with sorted keys, because other tools write a manifest again from their own model and the digest
has to survive that. An image's identity is always the digest of the bytes that were sent or received.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from tartlet.errors import UserError
from tartlet.image.format.reference import is_digest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OTHER_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
"""What registries have under a name that is no VM image: several images, or a container's in Docker's own format."""

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
VM_CONFIG = "application/vnd.cirruslabs.tart.config.v1"
DISK = "application/vnd.cirruslabs.tart.disk.v2"
LEGACY_DISK = "application/vnd.cirruslabs.tart.disk.v1"
NVRAM = "application/vnd.cirruslabs.tart.nvram.v1"
OVERLAY = "application/vnd.cirruslabs.tart.disk.asif.overlay.v1"
OVERLAY_FAMILY = "application/vnd.cirruslabs.tart.disk.asif."
"""What the media type of every overlay, also of a later version, starts with."""

DISK_SIZE = "org.cirruslabs.tart.uncompressed-disk-size"
UPLOAD_TIME = "org.cirruslabs.tart.upload-time"
BLOCK_SIZE = "org.cirruslabs.tart.disk.block-size"
PIECE_SIZE = "org.cirruslabs.tart.uncompressed-size"
PIECE_DIGEST = "org.cirruslabs.tart.uncompressed-content-digest"
FILE_DIGEST = "org.cirruslabs.tart.disk-file-content-digest"
FILE_PIECES = "org.cirruslabs.tart.disk-file-chunk-count"
FORMAT_LABEL = "org.cirruslabs.tart.disk.format"

MAX_MANIFEST_SIZE = 4 * 1024 * 1024
"""Bytes of a manifest that are read at most; registries take no larger ones."""


class BadManifest(UserError):
    """A manifest that breaks the format's rules, or that is of another kind of image."""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A blob of the registry: its type, its bytes as stored there, their digest."""

    media_type: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    digest: str
    annotations: dict[str, str] | None = None

    def annotation(self, key: str) -> str | None:
        """The value of annotation `key`, or None."""
        return (self.annotations or {}).get(key)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An image's manifest. What else a foreign one says lives on in its raw bytes only."""

    schema_version: int
    media_type: str = MANIFEST
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] | None = None

    def annotation(self, key: str) -> str | None:
        """The value of annotation `key`, or None."""
        return (self.annotations or {}).get(key)

    def encoded(self) -> bytes:
        """The canonical bytes."""
        return canonical_json({"mediaType": self.media_type, **msgspec.to_builtins(self)})


class _Kind(msgspec.Struct, rename="camel"):
    """As much of any manifest as tells what it is."""

    media_type: str = MANIFEST
    schema_version: int = 2


def digest_of(data: bytes) -> str:
    """The digest of `data` as registries write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def canonical_json(value: object) -> bytes:
    """`value` as compact JSON with keys sorted by code point, raw UTF-8 and escaped slashes.

    Raises BadManifest for text that is no Unicode (a lone surrogate).
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).replace("/", "\\/")
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise BadManifest(f"text is not valid Unicode: {exc.object[exc.start : exc.end]!r}") from exc


def read_manifest(raw: bytes) -> Manifest:
    """The manifest that `raw` spells. Raises BadManifest; nothing is said yet about the layers' order or number."""
    if len(raw) > MAX_MANIFEST_SIZE:
        raise BadManifest(f"a manifest of {len(raw)} bytes is too large")
    try:
        kind = msgspec.json.decode(raw, type=_Kind)
        if kind.media_type != MANIFEST or kind.schema_version != 2:
            raise BadManifest(
                f"not the manifest of a VM image: its type is {kind.media_type}, version {kind.schema_version}",
                "the name belongs to a container image or to a list of images",
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadManifest(f"the manifest cannot be read: {exc}") from exc
    for descriptor in (manifest.config, *manifest.layers):
        if not is_digest(descriptor.digest):
            raise BadManifest(
                f"the manifest names a blob by something that is no SHA-256 digest: {descriptor.digest!r}"
            )
    return manifest


def piece_descriptor(*, digest: str, size: int, content_digest: str, content_size: int) -> Descriptor:
    """One piece of a disk: `digest` and `size` of the compressed blob, and the same of what it holds."""
    annotations = {PIECE_SIZE: str(content_size), PIECE_DIGEST: content_digest}
    return Descriptor(media_type=DISK, size=size, digest=digest, annotations=annotations)


def blob_descriptor(media_type: str, data: bytes) -> Descriptor:
    """A small blob sent as it is. Layers of the format carry annotations, even when they are empty."""
    annotations: dict[str, str] | None = None if media_type == OCI_CONFIG else {}
    return Descriptor(media_type=media_type, size=len(data), digest=digest_of(data), annotations=annotations)


def flat_manifest(
    *,
    vm_config: Descriptor,
    disk: Sequence[Descriptor],
    nvram: Descriptor,
    oci_config: Descriptor,
    disk_size: int,
    uploaded: datetime,
) -> Manifest:
    """The manifest of an image with one self-contained disk of `disk_size` bytes, cut into the pieces `disk`."""
    if not disk:
        raise BadManifest("an image needs a disk", "the VM's disk is empty; give it a size first")
    stamp = uploaded.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Manifest(
        schema_version=2,
        config=oci_config,
        layers=(vm_config, *disk, nvram),
        annotations={DISK_SIZE: str(disk_size), UPLOAD_TIME: stamp},
    )


def oci_config(*, architecture: str, system: str, disk_format: str, labels: Mapping[str, str] | None = None) -> bytes:
    """The stub of a container config that makes registries take the image: `arm64` or `amd64`, `darwin` or `linux`.

    The label with the disk's format wins over a label of the same name.
    """
    all_labels = {**(labels or {}), FORMAT_LABEL: disk_format}
    return canonical_json({"architecture": architecture, "os": system, "config": {"Labels": all_labels}})


def usual_oci_config(vm_config: bytes) -> bytes | None:
    """The OCI config of an image without labels, from its VM config; None when that cannot be read."""
    try:
        told = json.loads(vm_config)
        architecture, system = str(told.get("arch", "arm64")), str(told.get("os", "darwin"))
        return oci_config(architecture=architecture, system=system, disk_format=str(told.get("diskFormat", "raw")))
    except (ValueError, AttributeError, RecursionError, BadManifest):
        return None


def parse_labels(words: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` words as labels: blanks around a word go, no `=` means an empty value, no key is no label."""
    pairs = (word.strip().partition("=") for word in words)
    return {key: value for key, _, value in pairs if key}
