"""A home with a stopped VM that has data on its disk and has been run, made without running anything."""

from __future__ import annotations

from pathlib import Path

from disk_files import guest_writes
from tartlet.host.paths import Home
from tartlet.host.sockets import listening
from tartlet.units import MIB
from tartlet.vm.stored import clone as cloning
from tartlet.vm.stored import config_file
from tartlet.vm.stored.model import VmConfig
from tartlet.vm.stored.store import VmStore

MAC = "7a:65:e4:3f:b2:01"


def filled(home: Path, *, overlay: bool = False, data: int = 3 * MIB) -> VmStore:
    """A home with the VM `source`, which has data on its disk and has been run."""
    store = VmStore(Home(home).prepared())
    with store.work_folder() as work:
        config_file.create(work / "config.json", VmConfig(arch="amd64", mac_address=MAC))
        (work / "nvram.bin").write_bytes(b"variables")
        with (work / "disk.img").open("wb") as disk:
            disk.write(b"data" * (data // 4))
            disk.truncate(12 * MIB)
        vm = store.install(work, "source")
    if overlay:
        cloning.clone(store, "source", "other")
        guest_writes(vm.path, MIB, 3 * MIB, 7)
    for name in ("run.log", "qemu.log", "serial.log", "network.json", "last-run.json", "manifest.json"):
        (vm.path / name).write_text("{}")
    listening(vm.path, "control.sock").close()
    return store
