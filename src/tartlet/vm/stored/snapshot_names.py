"""Which snapshots a VM has; cheap to import and to ask."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tartlet.errors import FileTrouble, InvalidArgument, UserError
from tartlet.vm.stored.folder import STATE, VmFolder

SNAPSHOTS = "snapshots"
"""The folder in a VM's folder."""


class SnapshotMissing(UserError):
    """No snapshot has that tag."""

    exit_code = 2

    def __init__(self, name: str, tag: str | None) -> None:
        what = "no snapshot" if tag is None else f'no snapshot "{tag}"'
        super().__init__(f'VM "{name}" has {what}', f"`tart snapshot list {name}` shows those there are")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A state of a VM that can be returned to."""

    tag: str
    created: float
    """Unix seconds."""
    memory: bool
    """Whether it holds a running guest's memory."""
    path: Path


def snapshots(vm: VmFolder) -> list[Snapshot]:
    """The snapshots of a VM, the oldest first. Raises FileTrouble."""
    folder = vm.path / SNAPSHOTS
    try:
        tags = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise FileTrouble("cannot list", folder, exc) from exc
    found = (_snapshot(folder / tag) for tag in tags)
    return sorted((one for one in found if one is not None), key=lambda one: (one.created, one.tag))


def checked_tag(tag: str) -> str:
    """`tag`, if a snapshot may be called that. Raises InvalidArgument."""
    if not tag or tag.startswith((".", "-")) or "/" in tag or "\0" in tag or len(os.fsencode(tag)) > 255:
        raise InvalidArgument(f"{tag!r} cannot be the tag of a snapshot", "use letters, digits, dots and dashes")
    return tag


def _snapshot(path: Path) -> Snapshot | None:
    """None for what is being deleted at this moment, or is no snapshot."""
    try:
        created = float(json.loads((path / "snapshot.json").read_bytes())["created"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Snapshot(tag=path.name, created=created, memory=os.path.exists(path / STATE), path=path)
