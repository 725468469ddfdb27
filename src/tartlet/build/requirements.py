"""What a build needs of this machine, asked before any work begins."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tartlet.build import sandbox
from tartlet.build.emulation import registration, this_host
from tartlet.build.recipe import Recipe
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


class CannotBuild(UserError):
    """Something is missing on this machine that the recipe needs."""


async def check(recipe: Recipe, work: Path) -> None:
    """Whether this machine can follow the recipe in the folder `work`.

    Raises CannotBuild, CannotEmulate, NoNamespace, ToolMissing.
    """
    _check_programs()
    _check_keyring(recipe)
    registration(recipe.architecture, this_host())
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
            f"install {distribution.keyring_package}, or copy that file from a machine that runs {distribution.name}",
        )


def check_room(work: Path, needed: int = ROOM) -> None:
    """Raises CannotBuild when the file system of `work` has less than `needed` bytes left."""
    free = shutil.disk_usage(work).free
    if free < needed:
        raise CannotBuild(
            f"building a guest takes {human_size(needed)}, and {work} has {human_size(free)} left",
            "free some space, or put TART_HOME on another file system",
        )
