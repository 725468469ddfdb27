"""A VM or cached image as one file, to be carried elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tartlet.archive.write import Content, InMemory, write_archive
from tartlet.disk.chain import Chain, chain_of
from tartlet.disk.clone import clone_disk
from tartlet.disk.model import DISK, DiskFormat
from tartlet.errors import FileTrouble
from tartlet.host.copying import reflink
from tartlet.host.files import whole_file
from tartlet.host.locks import try_process_lock
from tartlet.host.trouble import trouble_writing
from tartlet.hypervisor.nvram import OWN_VARIABLES
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.layout import StackedImage
from tartlet.image.format.overlay_source import open_chain
from tartlet.image.format.reference import looks_remote, parse
from tartlet.image.format.source import raw_disk
from tartlet.vm.images.push_source import StackedVm
from tartlet.vm.stored import config_file
from tartlet.vm.stored.folder import Layout, VmFolder
from tartlet.vm.stored.model import VmConfig
from tartlet.vm.stored.store import VmStore

Files = Sequence[tuple[str, Content]]


@dataclass(frozen=True, slots=True)
class Exported:
    """What goes into an archive, or went."""

    files: Files
    was_running: bool = False
    """The archive holds what a power cut would leave."""


def export(store: VmStore, name: str, target: Path, begun: Callable[[], None] = lambda: None) -> Exported:
    """Write the VM or cached image `name` to the file `target`, an Apple Archive, replacing it when it is complete.

    Disks are flat in it, whatever they stand on here. A VM that does not run cannot be started meanwhile; of one that
    runs, the archive holds what a power cut would leave. A suspended VM keeps its saved machine. `begun` is called when
    the VM has been found. Raises VmMissing, VmIncomplete, StackedVm, ImageMissing, StackedImage, BadConfig,
    UnreadableDisk, TornCopy, NoSpace, FileTrouble.
    """
    with _of_image(store, name) if looks_remote(name) else _of_vm(store, name) as exported:
        begun()
        try:
            with whole_file(target) as file:
                write_archive(file.write, exported.files)
        except FileNotFoundError as exc:
            hint = "the folder of the file must be there; name another: tart export NAME PATH"
            raise FileTrouble("cannot write", target, exc, hint) from exc
        except OSError as exc:
            raise trouble_writing(target, exc) from exc
        return exported


@contextmanager
def _of_image(store: VmStore, name: str) -> Generator[Exported]:
    cache = ImageCache(store.home)
    image = cache.open(parse(name))
    if not image.disk_path.exists():
        raise StackedImage(name)
    with cache.using(image), ExitStack() as held:
        paths = (image.config_path, image.disk_path, image.nvram_path)
        yield Exported([(path.name, held.enter_context(raw_disk(path))) for path in paths])


@contextmanager
def _of_vm(store: VmStore, name: str) -> Generator[Exported]:
    vm = store.open(name)
    if vm.layout() is Layout.STACKED_VM:
        raise StackedVm(name)
    with ExitStack() as held:
        config, is_running = held.enter_context(_held_config(vm))
        chain = chain_of(vm.path, config.disk_format)
        if is_running:
            chain = _still(chain, vm, config, held.enter_context(store.work_folder()))
        is_asif = chain.top.format is DiskFormat.ASIF
        disk = _opened(held, chain, is_asif=is_asif)
        kind = DiskFormat.ASIF if is_asif else DiskFormat.RAW
        document = config_file.printed(replace(config, disk_format=str(kind)))
        files: list[tuple[str, Content]] = [("config.json", InMemory(document)), (DISK, disk)]
        beside = [path for path in (vm.path / OWN_VARIABLES, vm.seed_path, vm.state_path) if path.exists()]
        files += [(path.name, held.enter_context(raw_disk(path))) for path in (vm.nvram_path, *beside)]
        yield Exported(files, is_running)


def _opened(held: ExitStack, chain: Chain, *, is_asif: bool) -> Content:
    """What the guest sees; a disk in Apple's sparse format as it is."""
    if is_asif:
        return held.enter_context(raw_disk(chain.top.path))
    return held.enter_context(open_chain(chain))


@contextmanager
def _held_config(vm: VmFolder) -> Generator[tuple[VmConfig, bool]]:
    """The configuration, and whether somebody runs the VM; if not, nobody can for the length of the block.

    It is read through the descriptor that holds its lock: closing another would give the lock up.
    """
    descriptor = try_process_lock(vm.config_path)
    if descriptor is None:
        yield vm.config(), True
        return
    with closing(os.fdopen(descriptor, "rb")) as file:
        yield config_file.parsed(file.read(), vm.config_path), False


def _still(chain: Chain, vm: VmFolder, config: VmConfig, work: Path) -> Chain:
    """The disk of a running VM as it is at one moment, where that can be had without copying all of it."""
    if chain.top.format is DiskFormat.RAW:
        return chain_of(work, "raw") if reflink(chain.top.path, work / DISK) else chain
    clone_disk(vm.path, work, running=True, declared=config.disk_format)
    return chain_of(work, "qcow2")
