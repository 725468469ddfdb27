"""Put an image that was just pushed into the cache, as if it had been pulled."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tartlet.host.copying import reflink
from tartlet.host.files import write_at, write_new
from tartlet.host.scratch import scratch_folder
from tartlet.host.trouble import trouble_writing
from tartlet.image.cache.cache import ImageCache
from tartlet.image.cache.cached_image import MANIFEST_FILE, OCI_CONFIG_FILE, CachedImage
from tartlet.image.cache.twins import copy_small_files, shared
from tartlet.image.format.manifest import usual_oci_config
from tartlet.image.format.source import DiskSource
from tartlet.image.push.plan import Target
from tartlet.image.push.push import PushSource

_STEP = 1024 * 1024


def populate(
    cache: ImageCache, target: Target, digest: str, manifest: bytes, fill: Callable[[Path], None]
) -> CachedImage:
    """Have the image `digest` of one repository in the cache, and all names of `target` lead to it.

    `fill` puts config, disk and firmware variables into an empty folder; it is not called when the image is there.
    Raises FileTrouble.
    """
    first, *_ = target.names
    image = cache.link(first, digest)
    if image is None:
        with scratch_folder(cache.work_folders()) as work:
            fill(work)
            _written(work / MANIFEST_FILE, manifest)
            image = cache.install(work, first, digest)
    for name in target.names:
        cache.link(name, digest)
    return image


def filled_from(image: CachedImage) -> Callable[[Path], None]:
    """Fills a folder with the files of a cached image, sharing its disk: nobody writes to that any more."""

    def fill(folder: Path) -> None:
        try:
            shared(image.disk_path, folder / image.disk_path.name)
            copy_small_files(image, folder)
        except OSError as exc:
            raise trouble_writing(folder, exc) from exc

    return fill


def filled_with(source: PushSource, whole: Path | None) -> Callable[[Path], None]:
    """Fills a folder with the parts of a VM; `whole` is its disk if that is one plain file, which can be shared."""

    def fill(folder: Path) -> None:
        _written(folder / "config.json", source.vm_config)
        _written(folder / "nvram.bin", source.nvram)
        if source.oci_config != usual_oci_config(source.vm_config):
            _written(folder / OCI_CONFIG_FILE, source.oci_config)
        if whole is None or not reflink(whole, folder / "disk.img"):
            _flat_copy(source.disk, folder / "disk.img")

    return fill


def _written(path: Path, content: bytes) -> None:
    try:
        write_new(path, content)
    except OSError as exc:
        raise trouble_writing(path, exc) from exc


def _flat_copy(disk: DiskSource, path: Path) -> None:
    """What the guest sees of a disk as a raw file; holes stay holes."""
    try:
        with path.open("xb", buffering=0) as file:
            file.truncate(disk.size)
            for start, end in disk.data(0, disk.size):
                for at in range(start, end, _STEP):
                    write_at(file.fileno(), disk.read(at, min(_STEP, end - at)), at)
            os.fsync(file.fileno())
    except OSError as exc:
        raise trouble_writing(path, exc) from exc
