"""The disks of one run: whether the VM's own can be run here, and what QEMU is told of it and of the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tartlet.disk.chain import chain_of
from tartlet.disk.model import Disk, DiskFormat
from tartlet.errors import UserError
from tartlet.host.paths import Home
from tartlet.hypervisor.block_nodes import attached, root_disk
from tartlet.hypervisor.devices import BlockDevice, Device
from tartlet.hypervisor.disk_options import DiskArgument, DiskOptions, parse_root_disk_options
from tartlet.vm.planning.image_disk import copied_disk, names_image
from tartlet.vm.planning.options import RunOptions
from tartlet.vm.stored.folder import Layout, VmFolder
from tartlet.vm.stored.model import VmConfig


class CannotRunHere(UserError):
    """A VM this program can keep but not run."""


def runnable_disk(vm: VmFolder, config: VmConfig) -> Disk:
    """The VM's own disk. Raises CannotRunHere."""
    if config.os != "linux":
        raise CannotRunHere(
            f'VM "{vm.name}" is a macOS guest, which only runs on a Mac with Apple silicon',
            "run it there, or export it",
        )
    if vm.layout() is not Layout.FLAT:
        raise CannotRunHere(
            f'VM "{vm.name}" has a stacked disk, which needs macOS 27 as the host', "use a VM with a flat disk"
        )
    disk = chain_of(vm.path, config.disk_format).top
    if disk.format is DiskFormat.ASIF:
        raise CannotRunHere(
            f'VM "{vm.name}" has an asif disk, which needs macOS 26 or newer as the host', "use a VM with a raw disk"
        )
    return disk


def disks(
    held: AsyncExitStack, home: Home, vm: VmFolder, disk: Disk, options: RunOptions, extra: Sequence[DiskArgument]
) -> list[Device]:
    """The VM's own disk, those of `--disk` in their order, and first-boot data at the end, claimed as long as `held`.

    Raises DiskInUse, and what else one of them refuses.
    """
    found: list[Device] = [
        root_disk(str(vm.disk_path), str(disk.format), parse_root_disk_options(options.root_disk_options))
    ]
    for argument in extra:
        make = _image_disk if names_image(argument) else _extra_disk
        found.append(make(held, home, argument, index=len(found)))
    if os.path.exists(vm.seed_path):
        seed = DiskArgument(str(vm.seed_path), DiskOptions(read_only=True))
        found.append(_extra_disk(held, home, seed, index=len(found)))
    return found


def _extra_disk(held: AsyncExitStack, _: Home, argument: DiskArgument, *, index: int) -> BlockDevice:
    kind = "qcow2" if Path(argument.path).suffix == ".qcow2" else "raw"
    return held.enter_context(attached(argument, index=index, kind=kind))


def _image_disk(held: AsyncExitStack, home: Home, argument: DiskArgument, *, index: int) -> BlockDevice:
    """How it is written to the medium is of no concern: it ends with the run."""
    copy = held.enter_context(copied_disk(home, argument.path))
    of_copy = DiskArgument(str(copy.path), DiskOptions(read_only=argument.options.read_only))
    return held.enter_context(attached(of_copy, index=index, kind=str(copy.format)))
