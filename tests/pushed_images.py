"""Images in a registry, pushed piece by piece with the parts that push is made of."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cached_images import CONFIG
from tartlet.image.format.layers import Region, cut
from tartlet.image.format.manifest import (
    NVRAM,
    OCI_CONFIG,
    VM_CONFIG,
    Descriptor,
    blob_descriptor,
    flat_manifest,
    oci_config,
)
from tartlet.image.format.source import DiskSource, raw_disk
from tartlet.image.push.encode import encode_piece
from tartlet.image.push.spool import MemorySpool
from tartlet.image.registry.bodies import from_bytes
from tartlet.image.registry.registry import Repository
from tartlet.image.registry.upload import push_blob
from tartlet.units import MIB

WHEN = datetime(2026, 8, 18, tzinfo=UTC)


def disk_file(path: Path, size: int, data: Mapping[int, bytes]) -> Path:
    """A sparse disk with `data` at some offsets."""
    with path.open("wb") as file:
        for at, content in data.items():
            file.seek(at)
            file.write(content)
        file.truncate(size)
    return path


def half_noise(path: Path, size: int) -> None:
    """A disk for measurements: one MiB of noise, one of text, and so on."""
    noise = random.Random(3)
    text = b"".join(b"%d the quick brown fox\n" % number for number in range(50_000))[:MIB]
    with path.open("wb") as file:
        for at in range(0, size, MIB):
            file.write(noise.randbytes(MIB) if at // MIB % 2 else text)


async def pushed(
    repository: Repository, tag: str, disk: Path, *, piece: int, config: bytes = CONFIG, nvram: bytes = b"nvram"
) -> str:
    """Push an image with pieces of `piece` bytes; returns the manifest's digest."""
    with raw_disk(disk) as source:
        size = source.size
        layers = [await _pushed_piece(repository, source, region) for region in cut(size, piece)]
    small = {
        VM_CONFIG: config,
        NVRAM: nvram,
        OCI_CONFIG: oci_config(architecture="amd64", system="linux", disk_format="raw"),
    }
    blobs = {kind: blob_descriptor(kind, data) for kind, data in small.items()}
    for kind, blob in blobs.items():
        await push_blob(repository, blob, from_bytes(small[kind]))
    manifest = flat_manifest(
        vm_config=blobs[VM_CONFIG],
        disk=layers,
        nvram=blobs[NVRAM],
        oci_config=blobs[OCI_CONFIG],
        disk_size=size,
        uploaded=WHEN,
    )
    return await repository.put_manifest(tag, manifest.encoded())


async def _pushed_piece(repository: Repository, source: DiskSource, region: Region) -> Descriptor:
    layer, data = await encode_piece(source, region, MemorySpool())
    await push_blob(repository, layer, data)
    return layer
