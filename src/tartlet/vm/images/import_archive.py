"""A VM from the file that `tart export` made, here or on a Mac."""

from __future__ import annotations

from pathlib import Path

from tartlet.archive.errors import BadArchive
from tartlet.archive.unpack import unpack
from tartlet.disk.model import DISK, DiskFormat, inspect
from tartlet.errors import FileTrouble
from tartlet.host.files import removed
from tartlet.hypervisor.nvram import NVRAM, OWN_VARIABLES
from tartlet.units import GIB, MIB
from tartlet.vm.stored import config_file
from tartlet.vm.stored.folder import STATE, VmFolder
from tartlet.vm.stored.model import checked_new_name
from tartlet.vm.stored.store import VmRunning, VmStore

_CONFIG = "config.json"
_NEEDED = (_CONFIG, DISK, NVRAM)
_WANTED = {
    _CONFIG: MIB,
    DISK: 1 << 62,
    NVRAM: GIB,
    OWN_VARIABLES: GIB,
    "seed.iso": 4 * GIB,
    STATE: 1 << 42,
}
"""What an imported VM gets of an archive, and how many bytes each may have."""


def import_archive(store: VmStore, path: Path, name: str) -> VmFolder:
    """Make the VM `name` from the archive `path`, replacing a stopped VM of that name.

    It keeps its MAC address unless another VM has that; then it gets a new one and loses its saved machine. Ended
    early, nothing is left of it. Raises InvalidArgument, VmRunning, BadArchive, BadConfig, NoSpace, FileTrouble.
    """
    target = store.folder(checked_new_name(name))
    if target.supervisor():
        raise VmRunning(name)
    with store.work_folder() as work:
        _unpacked(path, work)
        with store.alone():
            _adapt(store, work, name)
            return store.install(work, name)


def _unpacked(path: Path, work: Path) -> None:
    try:
        with path.open("rb") as file:
            found = unpack(file, work, _WANTED)
    except OSError as exc:
        raise FileTrouble("cannot read the archive", path, exc) from exc
    for needed in _NEEDED:
        if needed not in found:
            raise BadArchive(f"it holds no {needed}; a VM has {', '.join(_NEEDED)}")
    _check_disk(work)


def _check_disk(work: Path) -> None:
    """Whatever the archive says, its disk must not lead to other files of this host. Raises BadArchive, BadConfig."""
    disk = inspect(work / DISK, config_file.read(work / _CONFIG).disk_format)
    if disk.backing is not None:
        raise BadArchive("its disk stands on a file that is not in it")
    if disk.format is DiskFormat.RAW and not disk.size:
        raise BadArchive("its disk is empty")


def _adapt(store: VmStore, work: Path, name: str) -> None:
    """Needs `alone`."""
    config = config_file.read(work / _CONFIG)
    if store.same_mac(config.mac_address, besides=name):
        removed(work / STATE)
        config_file.write(work / _CONFIG, config.with_new_mac())
