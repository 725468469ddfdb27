"""What an image has beside its disk, on its way into a work folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
from anyio import to_thread

from tartlet.host.files import removed, write_at
from tartlet.host.trouble import trouble_writing
from tartlet.image.cache.cached_image import ImageFiles
from tartlet.image.format.layout import Layout
from tartlet.image.format.lz4_stream import BLOCK, ZERO_BLOCK
from tartlet.image.format.manifest import BadManifest, Descriptor, digest_of, usual_oci_config
from tartlet.image.format.piece_writer import CorruptBlob
from tartlet.image.format.reference import ImageName
from tartlet.image.progress import Counter
from tartlet.image.registry.errors import BadAnswer, RegistryError
from tartlet.image.registry.registry import Repository

log = logging.getLogger(__name__)

BROKEN_IMAGE = "the image has to be pushed anew, by `tart push` or another program that knows the format"
"""The hint where an image breaks the format."""


async def fetch_small_parts(
    repository: Repository, name: ImageName, layout: Layout, files: ImageFiles, counter: Counter
) -> None:
    """Have the VM config, the firmware variables and, if it is not the usual one, the OCI config in their files.

    Raises BadManifest for a VM config that is none, FileTrouble, and what `Repository` raises.
    """
    config = _checked_config(name, await repository.read_blob(layout.vm_config))
    nvram = await repository.read_blob(layout.nvram)
    parts = [(config, files.config_path), (nvram, files.nvram_path)]
    oci_config = await _unusual_oci_config(repository, name, layout.oci_config, config)
    if oci_config is None:
        counter.reuse(layout.oci_config.size)
    else:
        parts.append((oci_config, files.oci_config_path))
    for content, path in parts:
        await to_thread.run_sync(_write_sparse, path, content)
        counter.move(len(content))


async def _unusual_oci_config(
    repository: Repository, name: ImageName, wanted: Descriptor, vm_config: bytes
) -> bytes | None:
    """The OCI config, for whoever copies the image to another registry when its own is gone.

    None when it can be made again, and when there is none to be had: no VM needs it.
    """
    usual = usual_oci_config(vm_config)
    if usual is not None and digest_of(usual) == wanted.digest:
        return None
    try:
        return await repository.read_blob(wanted)
    except (RegistryError, CorruptBlob, BadAnswer) as exc:
        log.info("%s is kept without its OCI config: %s", name, exc)
        return None


def _checked_config(name: ImageName, content: bytes) -> bytes:
    """A VM config before anything large is fetched: what it says concerns who makes a VM of it."""
    try:
        readable = isinstance(msgspec.json.decode(content), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        readable = False
    if not readable:
        raise BadManifest(f"{name} cannot be used: its VM config is no JSON object", BROKEN_IMAGE)
    return content


def _write_sparse(path: Path, content: bytes) -> None:
    """A small file of which blocks of zeros take no room (firmware variables are mostly empty), on the medium."""
    try:
        removed(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            for at in range(0, len(content), BLOCK):
                block = content[at : at + BLOCK]
                if not ZERO_BLOCK.startswith(block):
                    write_at(descriptor, block, at)
            os.ftruncate(descriptor, len(content))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise trouble_writing(path, exc) from exc
