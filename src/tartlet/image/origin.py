"""Which image a VM was cloned from, kept beside the VM: what is unchanged since need not be sent or fetched again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tartlet.errors import UserError
from tartlet.host.files import write_new
from tartlet.image.reference import ImageName, is_digest, parse

ORIGIN = "origin.json"
"""`{"name": …, "digest": …}`: the image's name as it was asked for, and the digest of its manifest."""

ORIGIN_MANIFEST = "origin-manifest.json"
"""That manifest, byte for byte; it outlives the cached image."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The image that a VM's disk began as."""

    name: ImageName
    digest: str


def write(folder: Path, origin: Origin, manifest: bytes | None) -> None:
    """Record in a new VM folder where its disk comes from. Raises OSError."""
    document = {"name": str(origin.name), "digest": origin.digest}
    if manifest is not None:
        write_new(folder / ORIGIN_MANIFEST, manifest)
    write_new(folder / ORIGIN, json.dumps(document, indent=2).encode() + b"\n")


def read(folder: Path) -> Origin | None:
    """Where the disk of a VM folder comes from; None when that is not known or makes no sense."""
    try:
        document = cast("object", json.loads((folder / ORIGIN).read_bytes()))
        name, digest = (str(cast("dict[str, object]", document)[key]) for key in ("name", "digest"))
        return Origin(parse(name), digest) if is_digest(digest) else None
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None


def read_manifest(folder: Path) -> bytes | None:
    """The bytes of that image's manifest, as far as they were kept. Not verified."""
    try:
        return (folder / ORIGIN_MANIFEST).read_bytes()
    except OSError:
        return None
