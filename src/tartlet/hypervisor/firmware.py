"""The UEFI firmware of this host, found by QEMU's own descriptors.

Format: QEMU, docs/interop/firmware.json (see `descriptors`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from tartlet.errors import UserError
from tartlet.hypervisor.accel import QEMU_ARCH
from tartlet.hypervisor.descriptors import preferred, standard_folders

log = logging.getLogger(__name__)

_PACKAGES = {"amd64": "ovmf", "arm64": "qemu-efi-aarch64"}
_UNWANTED = frozenset({"secure-boot", "enrolled-keys", "requires-smm"})
"""A guest we build or pull is not signed for anybody's keys, and SMM slows every firmware call."""

_MACHINES = {"amd64": "pc-q35-", "arm64": "virt-"}


class FirmwareMissing(UserError):
    """No usable UEFI firmware for an architecture."""

    def __init__(self, guest_arch: str, looked_in: Iterable[Path]) -> None:
        places = ", ".join(map(str, looked_in))
        super().__init__(f"no UEFI firmware for {guest_arch} guests was found (descriptors looked for in {places})")
        self.hint = f"install it: apt install {_PACKAGES.get(guest_arch, 'edk2')}"
        self.guest_arch = guest_arch


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """One firmware: its code, which all guests share, and the variables a new guest starts with."""

    code: Path
    code_format: str
    """raw or qcow2."""
    variables_template: Path
    variables_format: str
    """raw or qcow2; a guest's own variable file keeps it."""
    descriptor: Path
    """Where this was read."""


def find(guest_arch: str, qemu_series: str, folders: Sequence[Path] | None = None) -> Firmware:
    """The preferred UEFI firmware without secure boot for `guest_arch` and QEMU's `7.2` or the like.

    `folders` from the most specific to the most general; the standard ones by default. Raises FirmwareMissing.
    """
    folders = standard_folders("firmware") if folders is None else folders
    machine = _MACHINES[guest_arch] + qemu_series
    for path in preferred(folders):
        try:
            firmware = _usable(path, QEMU_ARCH[guest_arch], machine)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            log.debug("firmware descriptor %s is not usable: %r", path, exc)
            continue
        if firmware is not None:
            return firmware
    raise FirmwareMissing(guest_arch, folders)


def _usable(path: Path, architecture: str, machine: str) -> Firmware | None:
    described = cast("dict[str, Any]", json.loads(path.read_bytes()))
    mapping = described["mapping"]
    if "uefi" not in described["interface-types"] or mapping["device"] != "flash":
        return None
    if mapping.get("mode", "split") != "split" or _UNWANTED & set(described["features"]):
        return None
    if not _fits(described["targets"], architecture, machine):
        return None
    code, template = mapping["executable"], mapping["nvram-template"]
    firmware = Firmware(
        code=Path(code["filename"]),
        code_format=str(code["format"]),
        variables_template=Path(template["filename"]),
        variables_format=str(template["format"]),
        descriptor=path,
    )
    return firmware if firmware.code.is_file() and firmware.variables_template.is_file() else None


def _fits(targets: list[dict[str, Any]], architecture: str, machine: str) -> bool:
    return any(
        target["architecture"] == architecture and any(fnmatchcase(machine, pattern) for pattern in target["machines"])
        for target in targets
    )
