"""Which images a VM is related to, kept beside the VM: what is unchanged since need not be sent or fetched again.

A note has two files: `NAME.json` says `{"name": …, "digest": …}`, the image's name as it was asked for and the digest
of its manifest; `NAME-manifest.json` is that manifest, byte for byte, and outlives the cached image.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tartlet.errors import UserError
from tartlet.host.files import write_new, write_whole
from tartlet.image.format.reference import ImageName, is_digest, parse

ORIGIN = "origin.json"
"""The note about the image that the VM was cloned from."""

ORIGIN_MANIFEST = "origin-manifest.json"

LAST_PUSH = "last-push.json"
"""The note about the image that the VM was last pushed as."""

LAST_PUSH_MANIFEST = "last-push-manifest.json"

NOTES = (ORIGIN, ORIGIN_MANIFEST, LAST_PUSH, LAST_PUSH_MANIFEST)
"""All of these files; a clone takes over what its source has."""


@dataclass(frozen=True, slots=True)
class Origin:
    """An image that a VM's disk has pieces of."""

    name: ImageName
    digest: str


def write(folder: Path, origin: Origin, manifest: bytes | None) -> None:
    """Record in a new VM folder where its disk comes from. Raises OSError."""
    if manifest is not None:
        write_new(folder / ORIGIN_MANIFEST, manifest)
    write_new(folder / ORIGIN, _document(origin))


def write_last_push(folder: Path, pushed: Origin, manifest: bytes) -> None:
    """Record in a VM's folder what it was pushed as, replacing the note of an earlier push. Raises OSError."""
    write_whole(folder / LAST_PUSH_MANIFEST, manifest)
    write_whole(folder / LAST_PUSH, _document(pushed))


def read(folder: Path, note: str = ORIGIN) -> Origin | None:
    """What a note in a VM's folder says; None when there is none or it makes no sense."""
    try:
        document = cast("object", json.loads((folder / note).read_bytes()))
        name, digest = (str(cast("dict[str, object]", document)[key]) for key in ("name", "digest"))
        return Origin(parse(name), digest) if is_digest(digest) else None
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None


def read_manifest(folder: Path, note: str = ORIGIN) -> bytes | None:
    """The bytes of that image's manifest, as far as they were kept. Not verified."""
    try:
        return (folder / note.replace(".json", "-manifest.json")).read_bytes()
    except OSError:
        return None


def verified_manifest(folder: Path, note: str = ORIGIN) -> bytes | None:
    """The same; None as well when they are not what the note says."""
    from tartlet.image.format.manifest import digest_of  # brings msgspec, which a clone does without

    origin, manifest = read(folder, note), read_manifest(folder, note)
    return manifest if origin and manifest and digest_of(manifest) == origin.digest else None


def _document(origin: Origin) -> bytes:
    document = {"name": str(origin.name), "digest": origin.digest}
    return json.dumps(document, indent=2).encode() + b"\n"
