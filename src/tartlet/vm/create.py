"""A new VM with an empty disk."""

from __future__ import annotations

from pathlib import Path

from tartlet.disk.create import create_disk
from tartlet.disk.model import DISK, DiskFormat
from tartlet.hypervisor import firmware, nvram, qemu
from tartlet.units import GB
from tartlet.vm import config_file
from tartlet.vm.folder import VmFolder
from tartlet.vm.model import VmConfig, checked_new_name, host_arch
from tartlet.vm.store import VmStore

DEFAULT_DISK_SIZE = 50
"""Gigabytes (1000³ bytes)."""


def create_empty(
    store: VmStore,
    name: str,
    *,
    disk_size: int = DEFAULT_DISK_SIZE * GB,
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
        make_variables(work, arch)
        create_disk(work / DISK, disk_size, disk_format)
        config_file.create(work / "config.json", VmConfig(arch=arch, disk_format=str(disk_format)))
        return store.install(work, name)


def make_variables(work: Path, arch: str) -> None:
    """Put fresh firmware variables into a new VM's folder. Raises FirmwareMissing, ToolMissing, FileTrouble."""
    series = qemu.version(qemu.find(arch)).series
    nvram.create(work / nvram.NVRAM, firmware.find(arch, series))
