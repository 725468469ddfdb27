"""A new VM that starts as a cached image; it stands on the image's disk as far as the file system lets it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tartlet.disk.clone import stand_on
from tartlet.image import origin
from tartlet.image.cache.cache import ImageCache
from tartlet.image.cache.cached_image import CachedImage
from tartlet.image.format.layout import StackedImage
from tartlet.image.format.reference import ImageName
from tartlet.image.origin import Origin
from tartlet.vm.stored import config_file
from tartlet.vm.stored.clone import Clone, copied
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import VmConfig, checked_new_name
from tartlet.vm.stored.store import VmStore


def clone_image(store: VmStore, name: ImageName, new_name: str) -> Clone:
    """Make `new_name` a VM that starts as the cached image `name`, replacing a stopped VM of that name.

    It keeps the image's MAC address unless a VM has that already. The image may be deleted from the cache at any time:
    the VM does not miss it. Raises ImageMissing, StackedImage, VmRunning, InvalidArgument, BadConfig, FileTrouble,
    NoSpace.
    """
    checked_new_name(new_name)
    cache = ImageCache(store.home)
    with cache.using(cache.open(name)) as image:
        if not image.disk_path.exists():
            raise StackedImage(name)
        with store.work_folder() as work, store.alone():
            config = config_file.read(image.config_path)
            disk = stand_on(image.disk_path, work, declared=config.disk_format)
            copied(image.nvram_path, work)
            config_file.create(work / "config.json", _of_its_own(store, config, disk.format))
            _note_origin(work, image, name)
            return Clone(vm=store.install(work, new_name), source=VmFolder(str(name), image.path), disk=disk)


def _of_its_own(store: VmStore, config: VmConfig, disk_format: str) -> VmConfig:
    taken = store.same_mac(config.mac_address) is not None
    return replace(config.with_new_mac() if taken else config, disk_format=str(disk_format))


def _note_origin(work: Path, image: CachedImage, name: ImageName) -> None:
    """For a later push, which need not send what the registry has, and for pulls that find pieces here."""
    origin.write(work, Origin(name, image.digest), image.manifest())
