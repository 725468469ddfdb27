"""What a VM is: its configuration, its state and its names, as frozen values with their rules."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tartlet.errors import InvalidArgument, UserError
from tartlet.units import MIB

DEFAULT_CPUS = 4
DEFAULT_MEMORY = 4096 * MIB


class VmState(enum.StrEnum):
    """What a VM is doing, told by its locks and files alone."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    STOPPED = "stopped"


class BadConfig(UserError):
    """A `config.json` that cannot be understood."""


class ResourcesTooSmall(UserError):
    """Fewer processors or less memory than the guest or the hypervisor needs."""

    def __init__(self, what: str, minimum: int, asked: int, unit: str = "") -> None:
        super().__init__(f"{what}: the minimum is {minimum}{unit}, {asked}{unit} was asked for")
        self.hint = f"ask for at least {minimum}{unit}"


@dataclass(frozen=True, slots=True)
class Display:
    """The size of the guest's screen; `unit` is `pt`, `px` or None."""

    width: int = 1024
    height: int = 768
    unit: str | None = None

    def __str__(self) -> str:
        return f"{self.width}x{self.height}{self.unit or ''}"

    def changed_by(self, text: str) -> Display:
        """This display with what `text` (`WIDTHxHEIGHT[pt|px]`) says; what it does not say well stays, the unit never.

        Never fails: parts that are no numbers count as 0, and 0 changes nothing.
        """
        unit = next((unit for unit in ("px", "pt") if text.endswith(unit)), None)
        parts = [_number(part) for part in text.removesuffix(unit or "").split("x")]
        width, height = (*parts, 0, 0)[:2]
        return Display(width or self.width, height or self.height, unit)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else 0


def random_mac() -> str:
    """A new locally administered unicast address, as `7a:65:e4:3f:b2:01`."""
    octets = bytearray(os.urandom(6))
    octets[0] = octets[0] & 0xFE | 0x02
    return ":".join(f"{octet:02x}" for octet in octets)


def mac_numbers(text: str) -> tuple[int, ...] | None:
    """The six numbers of an address, whatever its case and leading zeros; None when it is none."""
    parts = text.split(":")
    try:
        numbers = tuple(int(part, 16) for part in parts)
    except ValueError:
        return None
    return numbers if len(parts) == 6 and all(1 <= len(part) <= 2 for part in parts) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class VmConfig:
    """What is saved about a VM in its `config.json`."""

    os: str = "linux"
    """`linux` or `darwin`."""
    arch: str
    """`arm64` or `amd64`."""
    cpu_count: int = DEFAULT_CPUS
    cpu_count_min: int = DEFAULT_CPUS
    memory_size: int = DEFAULT_MEMORY
    """Bytes, as `memory_size_min`."""
    memory_size_min: int = DEFAULT_MEMORY
    mac_address: str = field(default_factory=random_mac)
    display: Display = field(default_factory=Display)
    display_refit: bool | None = None
    disk_format: str = "raw"
    """What the disk was made as; the truth is in the disk file itself."""
    other: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Keys this program does not use (`ecid`, `hardwareModel` and unknown ones), kept as they were."""

    def with_cpus(self, count: int) -> VmConfig:
        """The same VM with `count` processors. Raises ResourcesTooSmall."""
        minimum = max(1, self.cpu_count_min if self.os == "darwin" else 1)
        if count < minimum:
            raise ResourcesTooSmall("CPU count", minimum, count)
        return replace(self, cpu_count=count)

    def with_memory(self, size: int) -> VmConfig:
        """The same VM with `size` bytes of memory. Raises ResourcesTooSmall."""
        minimum = max(MIB, self.memory_size_min if self.os == "darwin" else MIB)
        if size < minimum:
            raise ResourcesTooSmall("memory", minimum // MIB, size // MIB, " MB")
        return replace(self, memory_size=size)

    def with_new_mac(self) -> VmConfig:
        """The same VM with another, random address."""
        return replace(self, mac_address=random_mac())


def host_arch() -> str:
    """This machine's architecture in a config's words: `amd64` or `arm64`."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def checked_new_name(name: str) -> str:
    """`name`, if a VM may be called that. Raises InvalidArgument."""
    if "/" in name:
        raise InvalidArgument(f'"{name}" should be a local name: it must not contain "/"')
    if name in ("", ".", "..") or "\0" in name:
        raise InvalidArgument(f'"{name}" cannot be the name of a VM', "choose a name with at least one letter or digit")
    if len(os.fsencode(name)) > 255:
        raise InvalidArgument(f'the name "{name[:40]}…" is too long for a folder', "choose one of at most 255 bytes")
    return name
