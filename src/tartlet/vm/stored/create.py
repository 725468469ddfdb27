"""A new VM: with an empty disk, with one built from packages, or from a published image."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tartlet.disk.create import create_disk
from tartlet.disk.model import DISK, DiskFormat
from tartlet.errors import FileTrouble
from tartlet.hypervisor import firmware, nvram, qemu
from tartlet.units import GB
from tartlet.vm.stored import config_file
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import VmConfig, checked_new_name, host_arch
from tartlet.vm.stored.store import VmStore

if TYPE_CHECKING:  # they bring an event loop, which an empty VM can do without
    from tartlet.build.checksum import Checksum
    from tartlet.build.progress import Report

DEFAULT_DISK_SIZE = 50 * GB
"""Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBoot:
    """What a guest with cloud-init is handed at its first boot (see `build.user_data`)."""

    user_data: bytes | None = None
    ssh_keys: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.user_data is not None or bool(self.ssh_keys)


def create_empty(
    store: VmStore,
    name: str,
    *,
    disk_size: int = DEFAULT_DISK_SIZE,
    disk_format: DiskFormat = DiskFormat.RAW,
    arch: str | None = None,
) -> VmFolder:
    """Make a Linux VM with an empty disk of `disk_size` bytes, replacing a stopped VM of that name.

    `arch` is amd64 or arm64, this host's by default. Raises InvalidArgument, VmRunning, FirmwareMissing, ToolMissing,
    NoSpace, FileTrouble.
    """
    checked_new_name(name)
    arch = arch or host_arch()
    with store.work_folder() as work:
        create_disk(work / DISK, disk_size, disk_format)
        return _installed(store, work, name, arch, disk_format, FirstBoot())


async def create_from_distro(
    store: VmStore,
    name: str,
    distro: str,
    *,
    report: Report,
    disk_size: int | None = None,
    arch: str | None = None,
    first_boot: FirstBoot = FirstBoot(),
) -> VmFolder:
    """Make a VM from a distribution's packages (`debian:bookworm`), replacing a stopped VM of that name.

    The guest is built once and kept in the cache; VMs stand on it and share its blocks. Its root grows into a disk of
    `disk_size` bytes (50 GB by default) when it first boots. Raises as `build.distro.from_distro` and `create_empty`
    do, and ShrinkRefused.
    """
    from tartlet.build.distro import held_guest
    from tartlet.disk.clone import stand_on
    from tartlet.disk.resize import grow_own_disk

    checked_new_name(name)
    arch = arch or host_arch()
    with ExitStack() as held:
        base = await held_guest(held, distro, cache=store.home.cache / "distros", architecture=arch, report=report)
        work = held.enter_context(store.work_folder())
        made = stand_on(base, work).format
        grow_own_disk(work, disk_size or DEFAULT_DISK_SIZE, made)
        return _installed(store, work, name, arch, made, first_boot)


async def create_from_image(
    store: VmStore,
    name: str,
    source: str,
    *,
    report: Report,
    checksum: Checksum | None = None,
    disk_size: int | None = None,
    arch: str | None = None,
    first_boot: FirstBoot = FirstBoot(),
) -> VmFolder:
    """Make a VM from the disk image at a path or address, replacing a stopped VM of that name.

    Its disk grows to `disk_size` bytes; without one to 50 GB, unless it is larger by itself. A guest with cloud-init
    that is handed no user data is brought to this program's conventions. Raises as `build.cloud_image.from_image` and
    `create_empty` do, and ShrinkRefused.
    """
    from tartlet.build.cloud_image import from_image
    from tartlet.build.user_data import conventional_user_data
    from tartlet.disk.resize import grow_own_disk

    checked_new_name(name)
    with store.work_folder() as work:
        disk = await from_image(
            source, work / DISK, cache=store.home.cache / "downloads", checksum=checksum, report=report
        )
        grow_own_disk(work, max(disk.size, DEFAULT_DISK_SIZE) if disk_size is None else disk_size, disk.format)
        handed = replace(first_boot, user_data=first_boot.user_data or conventional_user_data())
        return _installed(store, work, name, arch or host_arch(), disk.format, handed)


def _installed(
    store: VmStore, work: Path, name: str, arch: str, disk_format: DiskFormat, first_boot: FirstBoot
) -> VmFolder:
    """Put what a VM has besides its disk into its folder, and the folder in its place."""
    series = qemu.version(qemu.find(arch)).series
    nvram.create(work / nvram.NVRAM, firmware.find(arch, series))
    if first_boot:
        _write_first_boot(store.folder(name), work, first_boot)
    config_file.create(work / "config.json", VmConfig(arch=arch, disk_format=str(disk_format)))
    return store.install(work, name)


def _write_first_boot(vm: VmFolder, work: Path, first_boot: FirstBoot) -> None:
    from tartlet.build.seed import write_seed

    write = write_seed if first_boot.user_data is None else partial(write_seed, user_data=first_boot.user_data)
    try:
        write(work / vm.seed_path.name, hostname=vm.name, ssh_keys=first_boot.ssh_keys)
    except OSError as exc:
        raise FileTrouble("cannot write the first-boot data in", work, exc) from exc
