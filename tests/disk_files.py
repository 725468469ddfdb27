"""Disk files for tests: made, written and read by the real qemu-img and qemu-io."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tartlet.disk.footprint import measured, together
from tartlet.units import MIB


def run(*words: str | os.PathLike[str]) -> str:
    """Run a program that must succeed and return what it printed."""
    done = subprocess.run([os.fspath(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def vm_folder(folder: Path, size: int = 64 * MIB, *, data: int = 4 * MIB) -> Path:
    """A VM folder with a raw disk of `size` bytes that begins with `data` bytes of noise."""
    folder.mkdir(parents=True)
    with (folder / "disk.img").open("wb") as disk:
        disk.write(random.Random(1).randbytes(data))
        disk.truncate(size)
    return folder


def empty_folder(folder: Path) -> Path:
    """A folder for a clone."""
    folder.mkdir(parents=True)
    return folder


def guest_writes(folder: Path, at: int, size: int, pattern: int) -> None:
    """Write as a guest would, through QEMU's block layer, with the format taken from the file."""
    disk = folder / "disk.img"
    run("qemu-io", "-f", image_format(disk), "-c", f"write -P {pattern} {at} {size}", disk)


def image_format(path: Path) -> str:
    """What QEMU itself takes the file for."""
    return str(json.loads(run("qemu-img", "info", "--force-share", "--output=json", path))["format"])


def guest_sees(folder: Path, scratch: Path | None = None) -> bytes:
    """Every byte of the disk as QEMU shows it to a guest. `scratch` is where there is room for a flat copy."""
    disk = folder / "disk.img"
    if not _is_qcow2(disk):
        return disk.read_bytes()
    flat = (scratch or folder.parent) / f"{folder.name}.flat"
    run("qemu-img", "convert", "-O", "raw", disk, flat)
    content = flat.read_bytes()
    flat.unlink()
    return content


def check(folder: Path) -> None:
    """Raise unless qemu-img finds neither damage nor leaks in a qcow2 disk."""
    if _is_qcow2(folder / "disk.img"):
        run("qemu-img", "check", folder / "disk.img")


def _is_qcow2(disk: Path) -> bool:
    """By the four letters that QEMU looks for too."""
    with disk.open("rb") as file:
        return file.read(4) == b"QFI\xfb"


@contextmanager
def mounted(image: Path, size: int, *mkfs: str) -> Generator[Path, None, None]:
    """A file system of its own on a loop device, gone when the block ends."""
    with image.open("wb") as file:
        file.truncate(size)
    run(*mkfs, image)
    point = image.with_suffix(".mnt")
    point.mkdir()
    run("mount", "-o", "loop", image, point)
    try:
        yield point
    finally:
        run("umount", point)
        point.rmdir()
        image.unlink()


def freed_bytes(folder: Path) -> int:
    """Bytes of the file system that deleting `folder` would give back."""
    return together({"it": measured([folder])})["it"].alone
