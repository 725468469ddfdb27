"""A new VM that starts as a copy of another; they share disk blocks until one of them writes."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from tartlet.disk.clone import CloneReport, clone_disk
from tartlet.errors import FileTrouble
from tartlet.host.copying import reflink, sparse_copy
from tartlet.host.locks import try_process_lock
from tartlet.hypervisor.nvram import OWN_VARIABLES
from tartlet.image.origin import NOTES
from tartlet.vm.stored import config_file
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import VmConfig, VmState, checked_new_name
from tartlet.vm.stored.store import VmStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """What cloning came to."""

    vm: VmFolder
    source: VmFolder
    """What was cloned, a VM's folder or an image's."""
    disk: CloneReport


def clone(store: VmStore, source_name: str, new_name: str) -> Clone:
    """Make `new_name` a copy of the local VM `source_name`, replacing a stopped VM of that name.

    It gets a MAC address of its own unless the source is suspended; a suspended source's saved machine comes along.
    A running source is not disturbed: the copy then is what a power cut would leave.
    Raises VmMissing, VmIncomplete, VmRunning, InvalidArgument, BadConfig, FileTrouble, NoSpace.
    """
    checked_new_name(new_name)
    source = store.open(source_name)
    with store.work_folder() as work, store.alone():
        config = source.config()
        suspended = source.state() is VmState.SUSPENDED
        report = copied_disk(source, config, work)
        if suspended:
            copied(source.state_path, work)
        copied(source.nvram_path, work)
        for name in (OWN_VARIABLES, *NOTES):
            if os.path.exists(source.path / name):
                copied(source.path / name, work)
        new = replace(config if suspended else config.with_new_mac(), disk_format=str(report.format))
        config_file.create(work / "config.json", new)
        if os.path.exists(source.seed_path):
            copied(source.seed_path, work)
            if not suspended:  # its guest believes to know the disk
                _renew_seed(work / source.seed_path.name, new_name)
        return Clone(vm=store.install(work, new_name), source=source, disk=report)


def copied_disk(source: VmFolder, config: VmConfig, work: Path) -> CloneReport:
    """Give the folder `work` the disk of `source`, which may run.

    The source's config is not opened while its lock is held: closing it would give the lock up. Raises what
    `clone_disk` does.
    """
    lock = try_process_lock(source.config_path)
    if lock is None:
        return clone_disk(source.path, work, running=True, declared=config.disk_format)
    with closing(os.fdopen(lock, "rb")):
        report = clone_disk(source.path, work, running=False, declared=config.disk_format)
    if report.source_format != config.disk_format:
        now = source.config()  # read again: copying may have taken long, and `set` needs no lock
        config_file.write(source.config_path, replace(now, disk_format=str(report.source_format)))
    return report


def copied(file: Path, folder: Path) -> None:
    """A file that is small, or that nobody writes any more (a saved machine): shared where possible, else copied.

    Raises NoSpace, FileTrouble.
    """
    target = folder / file.name
    if not reflink(file, target):
        sparse_copy(file, target, sync=True)


def _renew_seed(seed: Path, name: str) -> None:
    """Give first-boot data an identity of its own, so that the guest takes the clone for a new machine."""
    from tartlet.build.seed import reseed

    try:
        reseed(seed, hostname=name)
    except OSError as exc:
        raise FileTrouble("cannot renew the first-boot data", seed, exc) from exc
