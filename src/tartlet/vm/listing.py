"""What `list` and `get` show of a VM: sizes, last use, state. Reads no more than it must and changes no access date."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tartlet.disk.model import allocated
from tartlet.disk.usage import disk_usage
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
    disk, size = sizes(vm)
    return Entry(source="local", name=vm.name, disk=disk, size=size, accessed=access_time.of(vm.path), state=vm.state())


def sizes(vm: VmFolder) -> tuple[int, int]:
    """`disk` and `size` of a VM's Entry, in bytes. Raises OSError."""
    beside = vm.config_path, vm.nvram_path
    disk, own = _disk_sizes(vm)
    return sum(os.stat(path).st_size for path in beside) + disk, sum(allocated(path) for path in beside) + own


def _disk_sizes(vm: VmFolder) -> tuple[int, int]:
    """What the guest sees, what is this VM's alone. A disk that makes no sense counts as the file system says."""
    try:
        usage = disk_usage(vm.path, declared_format(vm))
    except UserError:
        overlay = vm.path / "overlay.asif"  # a stacked VM
        found = os.stat(overlay if os.path.exists(overlay) else vm.disk_path)
        return found.st_size, found.st_blocks * 512
    return usage.disk.size, usage.allocated
