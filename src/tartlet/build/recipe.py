"""What a guest is made of, as a value: equal recipes give the same guest, so a built one can be used again."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

from tartlet.build.mirrors import sources
from tartlet.build.suites import Suite, architecture_named, suite_named
from tartlet.guest.own_agent.agent_package import agent_package
from tartlet.units import MIB

FILES = Path(__file__).with_name("rootfs")
"""What is laid over the packages in every guest."""
HOOKS = Path(__file__).with_name("hooks")

_NAMES = UUID("2f4b8a35-9c1e-5d6b-8b56-2a6d1fb0c2a7")
"""Name space of the identifiers this module derives."""

ESP_SIZE = 128 * MIB
"""Bytes of the EFI system partition: four kernels with their initial RAM disks."""

# The last console is the one that services write to and that a serial log shows. On a busy host an emulated guest takes
# a late timer for a missing one ("MP-BIOS bug") and hangs, unless it is told not to look.
_KERNEL_OPTIONS = {
    "amd64": "rw quiet no_timer_check console=tty0 console=ttyS0",
    "arm64": "rw quiet console=tty0 console=ttyAMA0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides what a built guest contains."""

    distribution: str
    codename: str
    architecture: str
    packages: tuple[str, ...]
    mirrors: tuple[str, ...]
    """Lines of sources.list(5); the guest keeps them."""
    contents: str
    """Digest of the files and scripts of this version of the program."""

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that name this recipe."""
        told = json.dumps({name: getattr(self, name) for name in self.__slots__}, sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    @property
    def suite(self) -> Suite:
        return suite_named(f"{self.distribution}:{self.codename}")

    def identifier(self, of: str) -> UUID:
        """The same UUID for the same part of the same recipe."""
        return uuid5(_NAMES, f"{self.digest}/{of}")

    @property
    def kernel_command_line(self) -> str:
        return f"root=PARTUUID={self.identifier('root')} {_KERNEL_OPTIONS[self.architecture]}"


def recipe_for(name: str, architecture: str | None = None) -> Recipe:
    """The recipe of `debian:bookworm` as this machine follows it, for its own architecture by default.

    Raises InvalidArgument.
    """
    suite = suite_named(name)
    architecture = architecture_named(architecture or platform.machine())
    return Recipe(
        distribution=suite.distribution.name,
        codename=suite.codename,
        architecture=architecture,
        packages=suite.packages(architecture),
        mirrors=sources(suite, architecture),
        contents=_contents(),
    )


def _contents() -> str:
    told = hashlib.sha256()
    for path in sorted(path for folder in (FILES, HOOKS) for path in folder.rglob("*") if path.is_file()):
        told.update(f"{path.relative_to(FILES.parent)}\0".encode())
        told.update(path.read_bytes() + b"\0")
    told.update(agent_package()[1])
    told.update(json.dumps(_KERNEL_OPTIONS).encode())
    return told.hexdigest()
