"""The firmware variables of one VM.

`nvram.bin` is ours when the firmware at hand can use it. One that came from elsewhere (Apple's format, or another
layout of flash) is kept byte for byte, for it belongs to the image and is pushed again; the VM then boots with fresh
variables in `efivars.fd` beside it, by the removable-media path of its disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tartlet.errors import FileTrouble
from tartlet.hypervisor.firmware import Firmware

NVRAM = "nvram.bin"
OWN_VARIABLES = "efivars.fd"

_VARIABLES_VOLUME = bytes.fromhex("8d2bf1ff96768b4ca9852747075b4f50")
"""EFI_SYSTEM_NV_DATA_FV_GUID (fff12b8d-7696-4c8b-a985-2747075b4f50) in memory's order: every EDK2 variable store has it
(UEFI PI specification, volume 3, 3.2.1)."""
_QCOW2 = b"QFI\xfb"


@dataclass(frozen=True, slots=True)
class VariableStore:
    """The file QEMU keeps a VM's firmware variables in."""

    path: Path
    format: str
    """raw or qcow2."""
    foreign_nvram: bool
    """Whether `nvram.bin` is somebody else's, so that `path` is a file of ours beside it."""


def prepare(folder: Path, firmware: Firmware) -> VariableStore:
    """The variable store of the VM in `folder`, made from the firmware's template where there is none yet.

    Never changes a foreign `nvram.bin`. Raises FileTrouble.
    """
    nvram, own = folder / NVRAM, folder / OWN_VARIABLES
    try:
        size = firmware.variables_template.stat().st_size
        if not nvram.exists():
            _copy(firmware.variables_template, nvram)
        if usable(nvram, size):
            return VariableStore(nvram, _format(nvram), foreign_nvram=False)
        if not (own.exists() and usable(own, size)):
            _copy(firmware.variables_template, own)
        return VariableStore(own, _format(own), foreign_nvram=True)
    except OSError as exc:
        raise FileTrouble("cannot prepare the firmware variables in", folder, exc) from exc


def create(path: Path, firmware: Firmware) -> None:
    """Make the variable store of a new VM. Raises FileTrouble."""
    try:
        _copy(firmware.variables_template, path)
    except OSError as exc:
        raise FileTrouble("cannot make the firmware variables", path, exc) from exc


def usable(path: Path, size: int) -> bool:
    """Whether a firmware whose variable store takes `size` bytes can use the file at `path`."""
    with path.open("rb") as file:
        head = file.read(44)
    if head.startswith(_QCOW2):
        return True  # only ever made by us, from a template in that format
    blank = head in (bytes(44), b"\xff" * 44)  # Debian's arm64 template: formatted at first boot
    known = head[16:32] == _VARIABLES_VOLUME and head[40:44] == b"_FVH"
    return (blank or known) and path.stat().st_size == size


def _format(path: Path) -> str:
    with path.open("rb") as file:
        return "qcow2" if file.read(4) == _QCOW2 else "raw"


def _copy(template: Path, target: Path) -> None:
    """Whole or not at all; holes of the template stay holes (arm64 stores are 64 MiB of which little is used)."""
    new = target.with_name(f".{target.name}.new")
    with template.open("rb") as source, new.open("wb") as copy:
        while piece := source.read(1 << 16):
            if piece.count(0) == len(piece):
                copy.seek(len(piece), os.SEEK_CUR)
            else:
                copy.write(piece)
        copy.truncate()
        copy.flush()
        os.fsync(copy.fileno())
    new.replace(target)
