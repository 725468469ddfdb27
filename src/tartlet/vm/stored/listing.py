"""What `list` and `get` show of a VM: sizes, last use, state. Reads no more than it must and changes no access date."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tartlet.errors import UserError
from tartlet.host import access_time
from tartlet.vm.stored.folder import Layout, VmFolder, declared_format
from tartlet.vm.stored.model import VmState
from tartlet.vm.stored.store import VmStore

if TYPE_CHECKING:  # whoever has no images does without them
    from tartlet.image.cache.cache import ImageCache
    from tartlet.image.cache.cached_image import CachedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a listing."""

    source: str
    """`local` or `OCI`."""
    name: str
    disk: int
    """Bytes of configuration, firmware variables and disk, the disk as its guest sees it."""
    size: int
    """Bytes they take on this host, without what is shared with other VMs."""
    accessed: float
    """Unix seconds."""
    state: VmState


def local_entries(store: VmStore) -> list[Entry]:
    """The local VMs by name. One that vanishes meanwhile is left out; one that is damaged is listed all the same."""
    entries: list[Entry] = []
    for vm in store.all():
        try:
            entries.append(entry_of(vm))
        except FileNotFoundError:
            continue
    return entries


def entry_of(vm: VmFolder) -> Entry:
    """What a listing says of one VM. Raises OSError."""
    disk, size = sizes(vm)
    return Entry(source="local", name=vm.name, disk=disk, size=size, accessed=access_time.of(vm.path), state=vm.state())


def image_entries(cache: ImageCache) -> list[Entry]:
    """The cached images, one entry for each tag and each digest. One that vanishes meanwhile is left out."""
    entries: list[Entry] = []
    for name, image in ((cached.name, cached.image) for cached in cache.names()):
        try:
            disk, size = image_sizes(image)
            accessed = access_time.of(image.path)
        except FileNotFoundError:
            continue
        entries.append(
            Entry(source="OCI", name=str(name), disk=disk, size=size, accessed=accessed, state=VmState.STOPPED)
        )
    return entries


def image_sizes(image: CachedImage) -> tuple[int, int]:
    """`disk` and `size` of a cached image's Entry, in bytes. Raises OSError.

    A stacked image is not charged for the layers that it shares, and its disk is as large as its manifest tells.
    """
    folder = VmFolder(str(image.name), image.path)
    if folder.layout() is Layout.STACKED_IMAGE:
        beside = os.stat(image.config_path), os.stat(image.nvram_path)
        return _told_disk_size(image), sum(file.st_blocks for file in beside) * 512
    return sizes(folder)


def _told_disk_size(image: CachedImage) -> int:
    from tartlet.image.format.layout import read_layout
    from tartlet.image.format.manifest import read_manifest

    try:
        layout = read_layout(read_manifest(image.manifest() or b""))
    except UserError:
        return 0
    return layout.disk_size if layout.block_count else 0


_OTHER_THAN_RAW = (b"QFI\xfb", b"shdw")
"""What a disk in a format of its own begins with: qcow2, ASIF."""


def sizes(vm: VmFolder) -> tuple[int, int]:
    """`disk` and `size` of a VM's Entry, in bytes. Raises OSError."""
    folder = os.fspath(vm.path)  # plain words: a listing asks this of every VM
    disk, own = _raw_sizes(f"{folder}/disk.img") or _disk_sizes(vm)
    beside = os.stat(f"{folder}/config.json"), os.stat(f"{folder}/nvram.bin")
    return disk + sum(file.st_size for file in beside), own + sum(file.st_blocks for file in beside) * 512


def _raw_sizes(disk: str) -> tuple[int, int] | None:
    """Length and allocated bytes of a disk that can only be raw; None for any other, and where there is none."""
    try:
        descriptor = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        start, found = os.read(descriptor, 4), os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return None if start in _OTHER_THAN_RAW else (found.st_size, found.st_blocks * 512)


def _disk_sizes(vm: VmFolder) -> tuple[int, int]:
    """What the guest sees, what is this VM's alone. A disk that makes no sense counts as the file system says."""
    from tartlet.disk.usage import disk_usage

    try:
        usage = disk_usage(vm.path, declared_format(vm))
    except UserError:
        overlay = vm.path / "overlay.asif"  # a stacked VM
        found = os.stat(overlay if os.path.exists(overlay) else vm.disk_path)
        return found.st_size, found.st_blocks * 512
    return usage.disk.size, usage.allocated
