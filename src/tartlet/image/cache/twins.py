"""One image in several repositories: its digest and so its files are the same, and the cache has the disk once."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from tartlet.host.copying import reflink, sparse_copy
from tartlet.host.scratch import scratch_folder
from tartlet.image.cache.cache import ImageCache
from tartlet.image.cache.cached_image import CachedImage, ImageMissing
from tartlet.image.format.reference import ImageName

log = logging.getLogger(__name__)


def linked_twin(cache: ImageCache, name: ImageName, digest: str) -> CachedImage | None:
    """Have an image under `name` by giving the disk of one from another repository a second name.

    None when no other repository has it here, or its disk cannot have more names. Raises FileTrouble.
    """
    for twin in cache.images():
        if twin.digest != digest or not (twin.disk_path.exists() and twin.manifest_path.exists()):
            continue
        try:
            with cache.using(twin), scratch_folder(cache.work_folders()) as work:
                os.link(twin.disk_path, work / twin.disk_path.name)
                copy_small_files(twin, work)
                sparse_copy(twin.manifest_path, work / twin.manifest_path.name, sync=True)
                return cache.install(work, name, digest)
        except (ImageMissing, OSError) as exc:
            log.debug("%s cannot be shared: %s", twin.name, exc)
    return None


def copy_small_files(image: CachedImage, folder: Path) -> None:
    """Copy what belongs to it beside disk and manifest: with one file for two images a lock on one were on both.

    Raises OSError.
    """
    for path in (image.config_path, image.nvram_path, image.oci_config_path):
        if path != image.oci_config_path or path.exists():
            sparse_copy(path, folder / path.name, sync=True)


def shared(source: Path, target: Path) -> None:
    """Give a file that nobody writes to any more a second name, or make the cheapest copy. Raises OSError."""
    with suppress(OSError):
        os.link(source, target)
        return
    if not reflink(source, target):
        sparse_copy(source, target, sync=True)
