"""What of a VM's folder goes into an image, and which images it shares pieces with."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tartlet.disk.chain import Chain, chain_of
from tartlet.disk.model import DiskFormat
from tartlet.errors import FileTrouble, UserError
from tartlet.host.locks import try_process_lock
from tartlet.image import origin
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.manifest import canonical_json, oci_config
from tartlet.image.format.overlay_source import ChainSource, open_chain
from tartlet.image.format.source import DiskSource, raw_disk
from tartlet.image.push.known_images import KnownImage, Untouched, known_image
from tartlet.image.push.push import PushSource
from tartlet.vm.stored import config_file
from tartlet.vm.stored.folder import Layout, VmFolder
from tartlet.vm.stored.model import VmConfig
from tartlet.vm.stored.store import VmRunning


class StackedVm(UserError):
    """A VM whose disk only a Mac can read."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'VM "{name}" has a stacked disk, which needs macOS 27 as the host',
            "push it from there, or push a VM with a flat disk",
        )


@dataclass(frozen=True, slots=True)
class VmAtRest:
    """A VM that nobody can start, open for reading."""

    source: PushSource
    whole_disk: Path | None
    """Its disk, if that is one file with the very bytes that are pushed."""


@contextmanager
def at_rest(vm: VmFolder, cache: ImageCache, labels: Mapping[str, str] | None) -> Generator[VmAtRest]:
    """Keep a VM from being started for the length of the block, and read it.

    Raises StackedVm, VmRunning, BadConfig, UnreadableDisk, FileTrouble.
    """
    if vm.layout() is Layout.STACKED_VM:
        raise StackedVm(vm.name)
    with ExitStack() as held:
        config = held.enter_context(_locked_config(vm))
        chain = chain_of(vm.path, config.disk_format)
        disk = held.enter_context(_opened(chain))
        is_asif = chain.top.format is DiskFormat.ASIF
        kind = str(DiskFormat.ASIF if is_asif else DiskFormat.RAW)
        source = PushSource(
            vm_config=_document(replace(config, disk_format=kind)),
            oci_config=oci_config(architecture=config.arch, system=config.os, disk_format=kind, labels=labels),
            nvram=_content(vm.nvram_path),
            disk=disk,
            known=_known(vm, cache, chain, disk),
        )
        yield VmAtRest(source, None if chain.bases or chain.top.format is DiskFormat.QCOW2 else chain.top.path)


@contextmanager
def _locked_config(vm: VmFolder) -> Generator[VmConfig]:
    """The configuration, read through the descriptor that holds its lock: closing another would give the lock up."""
    descriptor = try_process_lock(vm.config_path)
    if descriptor is None:
        raise VmRunning(vm.name)
    with closing(os.fdopen(descriptor, "rb")) as file:
        yield config_file.parsed(file.read(), vm.config_path)


@contextmanager
def _opened(chain: Chain) -> Generator[DiskSource]:
    """What is pushed of a disk: what its guest sees; of Apple's sparse format the file as it is."""
    with raw_disk(chain.top.path) if chain.top.format is DiskFormat.ASIF else open_chain(chain) as disk:
        yield disk


def _document(config: VmConfig) -> bytes:
    """The same bytes for the same VM. Raises BadManifest for text that is no Unicode."""
    return canonical_json(json.loads(config_file.printed(config)))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise FileTrouble("cannot read", path, exc) from exc


def _known(vm: VmFolder, cache: ImageCache, chain: Chain, disk: DiskSource) -> list[KnownImage]:
    """The image it was last pushed as, and the one that it was cloned from."""
    images: list[KnownImage | None] = []
    for note in (origin.LAST_PUSH, origin.ORIGIN):
        told = origin.read(vm.path, note)
        if told is None:
            continue
        cached = cache.cached(told.name.at_digest(told.digest))
        manifest = origin.verified_manifest(vm.path, note) or (cached.manifest() if cached else None)
        stands_on_it = cached and isinstance(disk, ChainSource) and _is(chain, cached.disk_path)
        images.append(known_image(told.name, manifest, _untouched(disk) if stands_on_it else None))
    return [image for image in images if image]


def _untouched(disk: DiskSource) -> Untouched | None:
    if not isinstance(disk, ChainSource):
        return None
    return lambda region: disk.is_untouched(region.offset, region.end)


def _is(chain: Chain, image_disk: Path) -> bool:
    """Whether the lowest file of a VM's disk is that of an image, which nobody has written since it was verified."""
    try:
        return bool(chain.bases) and os.path.samefile(chain.bases[-1].path, image_disk)
    except FileNotFoundError:
        return False
