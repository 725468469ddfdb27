"""The folder a VM is: its files, and what they say about its layout and state."""

from __future__ import annotations

import enum
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tartlet.disk.vm_files import VmFiles
from tartlet.errors import UserError
from tartlet.host.locks import lock_holder
from tartlet.vm.stored.model import VmConfig, VmState

STATE = "state.vzvmsave"
"""The saved machine of a suspended VM; its presence means suspended."""


class Layout(enum.Enum):
    """How the disk of a VM or cached image is kept."""

    FLAT = "flat"
    """`disk.img` holds, or stands for, the whole disk."""
    STACKED_VM = "stacked VM"
    """macOS 27's private overlay over shared files; only listed and deleted here."""
    STACKED_IMAGE = "stacked image"
    NONE = "none"


class VmIncomplete(UserError):
    """A folder with a VM's name that lacks the files of one."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'VM "{name}" is missing some of its files: a VM has config.json, disk.img and nvram.bin '
            "(or config.json, nvram.bin, manifest.json and overlay.asif when stacked)",
            "restore the missing files, or delete the folder and clone the VM again",
        )


@dataclass(frozen=True, slots=True)
class VmFolder(VmFiles):
    """One VM's folder. A value: making one opens and checks nothing."""

    name: str
    path: Path

    @property
    def state_path(self) -> Path:
        """The saved machine of a suspended VM."""
        return self.path / STATE

    @property
    def seed_path(self) -> Path:
        """First-boot data for the guest (a cloud-init NoCloud disk), if the VM was created with any."""
        return self.path / "seed.iso"

    @property
    def run_log_path(self) -> Path:
        """What the supervisor said during the last run."""
        return self.path / "run.log"

    @property
    def qemu_log_path(self) -> Path:
        """What QEMU printed during the last run."""
        return self.path / "qemu.log"

    @property
    def serial_log_path(self) -> Path:
        """What the guest wrote to its serial console during the last run."""
        return self.path / "serial.log"

    @property
    def refusals_log_path(self) -> Path:
        """What the network's filter refused the guest during the last run: `network.refusals` tells the format."""
        return self.path / "refusals.log"

    @contextmanager
    def opened(self) -> Generator[int]:
        """A descriptor of the folder, which means this VM even when it is renamed. Raises OSError."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def layout(self) -> Layout:
        """How the disk is kept, told by which files exist."""
        folder = os.fspath(self.path)  # plain words: a listing asks this of every VM
        if not (os.path.exists(f"{folder}/config.json") and os.path.exists(f"{folder}/nvram.bin")):
            return Layout.NONE
        disk = os.path.exists(f"{folder}/disk.img")
        overlay = os.path.exists(f"{folder}/overlay.asif")
        if disk:
            return Layout.NONE if overlay else Layout.FLAT
        if not os.path.exists(f"{folder}/manifest.json"):
            return Layout.NONE
        return Layout.STACKED_VM if overlay else Layout.STACKED_IMAGE

    def is_vm(self) -> bool:
        """Whether this is a complete local VM."""
        return self.layout() in (Layout.FLAT, Layout.STACKED_VM)

    def supervisor(self) -> int:
        """The process that runs this VM; 0 when none does."""
        return lock_holder(f"{os.fspath(self.path)}/config.json")

    def state(self) -> VmState:
        """Running, suspended or stopped."""
        if self.supervisor():
            return VmState.RUNNING
        return VmState.SUSPENDED if os.path.exists(self.state_path) else VmState.STOPPED

    def config(self) -> VmConfig:
        """The saved configuration. Raises BadConfig, FileTrouble."""
        from tartlet.vm.stored import config_file

        return config_file.read(self.config_path)


def declared_format(vm: VmFolder) -> str:
    """The disk format the configuration tells; if it is unreadable `raw`, which trusts the disk's content least."""
    try:
        return vm.config().disk_format
    except UserError:
        return "raw"
