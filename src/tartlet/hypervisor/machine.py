"""A whole machine as one value, ready to be written as QEMU's command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tartlet.hypervisor.accel import Accelerator
from tartlet.hypervisor.devices import Device
from tartlet.hypervisor.firmware import Firmware
from tartlet.hypervisor.nvram import VariableStore

MONITOR = "monitor"
"""The id of the monitor's character device."""

_TYPES = {"amd64": "pc-q35-", "arm64": "virt-"}


def machine_type(arch: str, qemu_series: str) -> str:
    """The machine type for guests of `arch` on QEMU `7.2` or the like: versioned, for saved states depend on it."""
    return _TYPES[arch] + qemu_series


@dataclass(frozen=True, slots=True)
class Ram:
    """A guest's memory as a file that has no name (see `host.memory`)."""

    descriptor: int
    private: bool = False
    """What the guest writes stays in its own process, and the file as it is: forks share one. Otherwise helper programs
    can work on the guest's memory, and it can be copied from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything QEMU has to know. A value: making one opens and starts nothing."""

    name: str
    arch: str
    """amd64 or arm64."""
    type: str
    """See `machine_type`."""
    cpus: int
    memory: int
    """Bytes."""
    accelerator: Accelerator
    firmware: Firmware
    variables: VariableStore
    monitor: int
    """QEMU's end of the connected pair over which it takes commands."""
    serial_log: Path
    """Where what the guest writes to its first serial port is kept."""
    serial: int | None = None
    """QEMU's end of the connected pair behind the first serial port; without one the port is only written to."""
    devices: tuple[Device, ...]
    display: tuple[str, ...] = ("-display", "none")
    """Words of a window and of a VNC server (see `console.display` and `console.vnc`)."""
    ram: Ram | None = None
    """The file that is the guest's memory; without one QEMU takes memory that nobody else can use."""
    nested: bool = False
    """Whether the guest may run guests."""
    uuid: str | None = None
    """What the guest's firmware tables call the machine."""
    restored: bool = False
    """Wait for a saved state instead of starting (see `state_file`)."""

    def descriptors(self) -> tuple[int, ...]:
        """What QEMU has to inherit, under the same numbers."""
        serial = () if self.serial is None else (self.serial,)
        ram = () if self.ram is None else (self.ram.descriptor,)
        return (
            self.monitor,
            *serial,
            *ram,
            *(descriptor for device in self.devices for descriptor in device.descriptors()),
        )

    def headless(self) -> bool:
        """Whether QEMU opens no window on this host."""
        return self.display[:2] == ("-display", "none")
