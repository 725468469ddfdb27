"""`tart set`: change a VM's configuration and disk. Everything is checked before anything is changed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from tartlet.disk.chain import chain_of
from tartlet.disk.model import inspect
from tartlet.disk.replace import replace_disk, replacement
from tartlet.disk.resize import grow_disk
from tartlet.errors import InvalidArgument, UserError
from tartlet.vm.folder import Layout, VmFolder
from tartlet.vm.model import VmConfig, VmState
from tartlet.vm.store import VmRunning, VmStore, not_running


class VmSuspended(UserError):
    """The VM's saved machine depends on what is to be changed."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'VM "{name}" is suspended, and its saved state depends on the disk as it is',
            f"run it and shut it down, or give the saved state up with `tart stop {name}`",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What to change; None leaves things as they are."""

    cpu: int | None = None
    memory: int | None = None
    """Bytes."""
    display: str | None = None
    """`WIDTHxHEIGHT[pt|px]`; the unit is taken from it even when it says none."""
    display_refit: bool | None = None
    random_mac: bool = False
    disk: Path | None = None
    """A disk image whose copy becomes the VM's disk."""
    disk_size: int | None = None
    """Bytes to grow the disk to."""

    def applied_to(self, config: VmConfig) -> VmConfig:
        """`config` with these changes. Raises ResourcesTooSmall."""
        if self.cpu is not None:
            config = config.with_cpus(self.cpu)
        if self.memory is not None:
            config = config.with_memory(self.memory)
        if self.display is not None:
            config = replace(config, display=config.display.changed_by(self.display))
        if self.display_refit is not None:
            config = replace(config, display_refit=self.display_refit)
        return config.with_new_mac() if self.random_mac else config


def change(store: VmStore, name: str, changes: Changes) -> VmConfig:
    """Change a VM and return its new configuration. A running one sees the changes when it is started next.

    A disk can only be replaced or grown while its guest is neither running nor suspended; a running VM's raw disk may
    grow. Raises VmMissing, VmIncomplete, ResourcesTooSmall, ShrinkRefused, VmRunning, VmSuspended, InvalidArgument,
    NoSpace, FileTrouble.
    """
    vm = store.open(name)
    before = vm.config()
    after = changes.applied_to(before)
    _check_disk(vm, before, changes)
    store.save_config(vm, before, after)
    if changes.disk is not None:
        with _temporary(store) as temporary:
            after = _with_disk(store, vm, after, changes.disk, temporary)
    if changes.disk_size is not None:
        grow_disk(vm.path, changes.disk_size, after.disk_format)
    return after


def _check_disk(vm: VmFolder, config: VmConfig, changes: Changes) -> None:
    if changes.disk is None and changes.disk_size is None:
        return
    if vm.layout() is Layout.STACKED_VM:
        if changes.disk is not None:
            raise InvalidArgument(f'VM "{vm.name}" has a stacked disk, which cannot be replaced', "clone a flat image")
        raise UserError(f'VM "{vm.name}" has a stacked disk, which only grows on macOS 27', "clone a flat image")
    state = vm.state()
    if state is VmState.SUSPENDED and not changes.random_mac:
        raise VmSuspended(vm.name)
    if state is VmState.RUNNING and changes.disk is not None:
        raise VmRunning(vm.name)
    disk = inspect(changes.disk) if changes.disk is not None else chain_of(vm.path, config.disk_format).top
    if changes.disk_size is not None:
        disk.grown_to(changes.disk_size)


def _with_disk(store: VmStore, vm: VmFolder, config: VmConfig, source: Path, temporary: Path) -> VmConfig:
    """A qcow2 disk is believed only while the config says so: it says so before the disk changes, and raw after."""
    disk = replacement(source, temporary)
    new = replace(config, disk_format=str(disk.format))
    if disk.format != "raw":
        store.save_config(vm, config, new)
    with not_running(vm):
        replace_disk(vm.path, temporary)
    if disk.format == "raw":
        store.save_config(vm, config, new)
    return new


@contextmanager
def _temporary(store: VmStore) -> Generator[Path]:
    """A name in `tmp` for one file, in a locked folder so that no collector takes it."""
    with store.work_folder() as work:
        yield work / f"set-disk-{str(uuid4()).upper()}"
