"""What a build needs of this machine, asked before any work begins."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from tartlet.build import sandbox
from tartlet.build.recipe import Recipe
from tartlet.build.suites import ARCHITECTURES
from tartlet.errors import UserError
from tartlet.units import GB, human_size

_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "sfdisk": "fdisk",
    "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
}
"""Program and the Debian package that has it."""

ROOM = 2 * GB
"""Bytes a build takes at its peak: the files of the root, the downloaded packages and the disk made of them."""

_EMULATED = {"amd64": "x86_64", "arm64": "aarch64"}
_BINFMT = Path("/proc/sys/fs/binfmt_misc")


class CannotBuild(UserError):
    """Something is missing on this machine that the recipe needs."""


async def check(recipe: Recipe, work: Path) -> None:
    """Raises CannotBuild, NoNamespace when the recipe cannot be followed in the folder `work` of this machine."""
    _check_programs()
    _check_keyring(recipe)
    check_emulator(recipe.architecture)
    check_room(work)
    await sandbox.check()


def _check_programs() -> None:
    missing = {package for program, package in _PROGRAMS.items() if not shutil.which(program, path=search_path())}
    if missing:
        names = " ".join(sorted(missing))
        raise CannotBuild(f"building a guest from packages needs {names}", f"apt install {names}")


def search_path() -> str:
    """PATH with the folders for system programs, which ordinary users often lack."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))


def _check_keyring(recipe: Recipe) -> None:
    distribution = recipe.suite.distribution
    if not Path(distribution.keyring).is_file():
        raise CannotBuild(
            f"the keys that sign the packages of {distribution.name} are not on this machine ({distribution.keyring})",
            f"apt install {distribution.keyring_package}",
        )


def check_emulator(architecture: str, *, machine: str | None = None, binfmt: Path = _BINFMT) -> None:
    """Raises CannotBuild when programs of that architecture do not run here."""
    if ARCHITECTURES.get(machine or platform.machine()) == architecture:
        return
    emulator = f"qemu-{_EMULATED[architecture]}"
    entry = binfmt / emulator
    if entry.is_file() and entry.read_text().startswith("enabled"):
        return
    if shutil.which(f"{emulator}-static") or shutil.which(emulator):
        raise CannotBuild(
            f"the kernel of this machine does not start {architecture} programs by {emulator}",
            "systemctl restart systemd-binfmt, or update-binfmts --enable " + emulator,
        )
    raise CannotBuild(
        f"this machine cannot run the programs of an {architecture} guest", "apt install qemu-user-static"
    )


def check_room(work: Path, needed: int = ROOM) -> None:
    """Raises CannotBuild when the file system of `work` has less than `needed` bytes left."""
    free = shutil.disk_usage(work).free
    if free < needed:
        raise CannotBuild(
            f"building a guest takes {human_size(needed)}, and {work} has {human_size(free)} left",
            "free some space, or put TART_HOME on another file system",
        )
