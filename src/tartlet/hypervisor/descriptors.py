"""The small JSON files in which a host tells QEMU's users which firmware and which helper programs it has.

Rules of QEMU, docs/interop/firmware.json and docs/interop/vhost-user.json: a file of the same name in a more specific
folder replaces one in a more general folder, an empty one masks it, and the file names give the order of preference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path


def standard_folders(kind: str) -> list[Path]:
    """Where descriptors of a kind (`firmware`, `vhost-user`) live, the user's own first."""
    own = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    shared = ["/etc/qemu", "/usr/local/share/qemu", "/usr/share/qemu", "/opt/homebrew/share/qemu"]
    return [Path(own, "qemu", kind), *(Path(folder, kind) for folder in shared)]


def preferred(folders: Sequence[Path]) -> Iterator[Path]:
    """The descriptors that count, the most preferred first. `folders` from the most specific to the most general."""
    chosen: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            for path in folder.glob("*.json"):
                chosen.setdefault(path.name, path)
    for name in sorted(chosen):
        if chosen[name].stat().st_size:  # an empty file masks the more general ones
            yield chosen[name]
