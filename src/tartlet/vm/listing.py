"""What `list` and `get` show of a VM: sizes, last use, state. Reads no more than it must and changes no access date."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tartlet.disk.chain import chain_of
from tartlet.disk.model import allocated, inspect
from tartlet.errors import UserError
from tartlet.host import access_time
from tartlet.vm.folder import VmFolder, declared_format
from tartlet.vm.model import VmState
from tartlet.vm.store import VmStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a listing."""

    source: str
    """`local` or `OCI`."""
    name: str
    disk: int
    """Bytes of configuration, firmware variables and disk, the disk as its guest sees it."""
    size: int
    """Bytes they take on this host, without what is shared with other VMs."""
    accessed: float
    """Unix seconds."""
    state: VmState


def local_entries(store: VmStore) -> list[Entry]:
    """The local VMs by name. One that vanishes meanwhile is left out; one that is damaged is listed all the same."""
    entries: list[Entry] = []
    for vm in store.all():
        try:
            entries.append(entry_of(vm))
        except FileNotFoundError:
            continue
    return entries


def entry_of(vm: VmFolder) -> Entry:
    """What a listing says of one VM. Raises OSError."""
    return Entry(
        source="local",
        name=vm.name,
        disk=logical_size(vm),
        size=own_size(vm),
        accessed=access_time.of(vm.path),
        state=vm.state(),
    )


def logical_size(vm: VmFolder) -> int:
    """Bytes of configuration, firmware variables and disk, the disk as its guest sees it. Raises OSError."""
    return os.stat(vm.config_path).st_size + os.stat(vm.nvram_path).st_size + _guest_visible(vm)


def own_size(vm: VmFolder) -> int:
    """Bytes the VM's files take on this host; a base that other VMs stand on too is not charged. Raises OSError."""
    kept = [vm.config_path, vm.nvram_path, _top(vm), *(base for base in _bases(vm) if os.stat(base).st_nlink == 1)]
    return sum(allocated(path) for path in kept)


def _top(vm: VmFolder) -> Path:
    overlay = vm.path / "overlay.asif"
    return overlay if os.path.exists(overlay) else vm.disk_path


def _guest_visible(vm: VmFolder) -> int:
    top = _top(vm)
    try:
        return inspect(top, declared_format(vm)).size
    except UserError:  # a header that makes no sense: what the file system says
        return os.stat(top).st_size


def _bases(vm: VmFolder) -> list[Path]:
    try:
        return [base.path for base in chain_of(vm.path, declared_format(vm)).bases]
    except UserError:
        return []
