"""`tart set`: change a VM's configuration and disk. Everything is checked before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tartlet.disk.chain import chain_of
from tartlet.disk.model import DISK, Disk, DiskFormat
from tartlet.disk.replace import replace_disk, replacement
from tartlet.disk.resize import grow_disk, grow_own_disk
from tartlet.errors import InvalidArgument, UserError
from tartlet.host.files import removed
from tartlet.vm.stored.folder import Layout, VmFolder
from tartlet.vm.stored.model import VmConfig, VmState
from tartlet.vm.stored.store import VmRunning, VmStore


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

    def without_disk_size(self) -> Changes:
        """The same but for the disk's size."""
        return replace(self, disk_size=None)

    def for_the_next_start(self) -> list[str]:
        """What a running machine cannot take, in the user's words."""
        asked = {"CPUs": self.cpu, "display": self.display, "display refit": self.display_refit}
        named = [what for what, value in asked.items() if value is not None]
        return [*named, "MAC address"] if self.random_mac else named

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

    A disk can only be replaced or grown while its guest is neither running nor suspended; `change_running` grows that
    of a running VM. Raises VmMissing, VmIncomplete, ResourcesTooSmall, ShrinkRefused, VmRunning, VmSuspended,
    InvalidArgument, DiskInUse, NoSpace, FileTrouble.
    """
    vm = store.open(name)
    if changes.disk is not None:
        return _with_disk(store, vm, changes, changes.disk)
    before = vm.config()
    after = changes.applied_to(before)
    if changes.disk_size is None:
        store.save_config(vm, before, after)
        return after
    with store.alone():  # nobody starts the VM between the check and the change
        disk = _checked_disk(vm, before, changes)
        disk.grown_to(changes.disk_size)
        if changes.random_mac:
            removed(vm.state_path)  # before the disk is another than the saved machine knows
        grow_disk(vm.path, changes.disk_size, before.disk_format)
        store.save_config(vm, before, after)
    return after


def _checked_disk(vm: VmFolder, config: VmConfig, changes: Changes) -> Disk:
    """The disk of a VM, if it may be changed now."""
    if vm.layout() is Layout.STACKED_VM:
        if changes.disk is not None:
            raise InvalidArgument(f'VM "{vm.name}" has a stacked disk, which cannot be replaced', "clone a flat image")
        raise UserError(f'VM "{vm.name}" has a stacked disk, which only grows on macOS 27', "clone a flat image")
    state = vm.state()
    if state is VmState.SUSPENDED and not changes.random_mac:
        raise VmSuspended(vm.name)
    disk = chain_of(vm.path, config.disk_format).top
    if state is VmState.RUNNING:
        raise VmRunning(vm.name)
    return disk


def _with_disk(store: VmStore, vm: VmFolder, changes: Changes, source: Path) -> VmConfig:
    """The new disk is copied, and grown, beside the old one; then both it and the configuration are put in place.

    A qcow2 disk is believed only while the config says so: it says so before the disk changes, and raw after.
    """
    changes.applied_to(vm.config())
    _checked_disk(vm, vm.config(), changes)
    with store.work_folder() as work:
        disk = replacement(source, work / DISK)
        if changes.disk_size is not None:
            grow_own_disk(work, changes.disk_size, disk.format)
        with store.alone():
            before = vm.config()
            _checked_disk(vm, before, changes)
            after = replace(changes.applied_to(before), disk_format=str(disk.format))
            if changes.random_mac:
                removed(vm.state_path)
            if disk.format is DiskFormat.QCOW2:
                store.save_config(vm, before, after)
            replace_disk(vm.path, work / DISK)
            if disk.format is not DiskFormat.QCOW2:
                store.save_config(vm, before, after)
    return after
