"""The files laid over the packages of a guest, as a tar archive that is the same for the same recipe."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from tartlet.build.recipe import FILES, Recipe
from tartlet.guest.own_agent.agent_package import agent_package

_PACKAGES = "var/cache/tartlet/"
"""Where packages lie until they are installed, which is done by `hooks/customize.sh`."""


def write_overlay(recipe: Recipe, target: Path) -> None:
    """Write the archive. Owners are root; a script is executable by its first line, whatever its mode here."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(FILES.rglob("*")):
            if path.is_file():
                _add(archive, path.relative_to(FILES).as_posix(), path.read_bytes())
        _add(archive, _PACKAGES + agent_package()[0], agent_package()[1])
        _add(archive, "etc/kernel/cmdline", f"{recipe.kernel_command_line}\n".encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = 0o755 if content.startswith(b"#!") else 0o440 if name.startswith("etc/sudoers.d/") else 0o644
    entry.uname = entry.gname = "root"
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
