"""Snapshots: states of a VM that can be returned to, each a folder in `snapshots` that holds what a VM's folder holds.

Making and deleting one is a rename, and returning to one an exchange of the VM's folder with a new one, so being killed
at any point leaves the old state or the new one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tartlet.disk.chain import names_in
from tartlet.disk.model import DISK, is_base_name
from tartlet.errors import FileTrouble, UserError
from tartlet.host.copying import reflink, sparse_copy
from tartlet.host.files import move_if_free, sync_folder, write_new
from tartlet.hypervisor.nvram import NVRAM, OWN_VARIABLES
from tartlet.network.record import FILE_NAME as NETWORK
from tartlet.vm.stored import config_file
from tartlet.vm.stored.clone import copied, copied_disk
from tartlet.vm.stored.folder import STATE, VmFolder
from tartlet.vm.stored.model import VmState
from tartlet.vm.stored.snapshot_names import SNAPSHOTS, Snapshot, SnapshotMissing, checked_tag, snapshots
from tartlet.vm.stored.store import VmRunning, VmStore

_REPLACED = {DISK, NVRAM, OWN_VARIABLES, STATE, NETWORK, "config.json"}
"""What of a VM's folder a snapshot holds. The rest, such as logs, stays when a VM returns to one."""


class SnapshotExists(UserError):
    """A tag that is taken."""

    def __init__(self, name: str, tag: str) -> None:
        super().__init__(
            f'VM "{name}" already has a snapshot "{tag}"', f"choose another tag, or: tart snapshot delete {name} {tag}"
        )


class FoldersShared(UserError):
    """A running VM that cannot be saved because of its `--dir`."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'VM "{name}" shares a folder with the host, which QEMU cannot save',
            f"stop it first: tart stop {name}; or run it without --dir, or with :sync",
        )


async def create_snapshot(store: VmStore, name: str, tag: str | None = None) -> Snapshot:
    """Keep the present state of a VM under `tag` (by default the time): its disk, and its memory when it runs.

    A running guest stands still until its memory is written. Raises VmMissing, VmIncomplete, InvalidArgument,
    SnapshotExists, NoSpace, FileTrouble, Refused (the supervisor's reason), SupervisorGone.
    """
    import anyio.to_thread

    vm = store.open(name)
    tag = checked_tag(time.strftime("%Y-%m-%d_%H-%M-%S") if tag is None else tag)
    if any(snapshot.tag == tag for snapshot in snapshots(vm)):  # before a guest is halted for nothing
        raise SnapshotExists(name, tag)
    if vm.state() is VmState.RUNNING:
        await _of_running(vm, tag)
    else:
        await anyio.to_thread.run_sync(_of_stopped, store, vm, tag)
    return next(snapshot for snapshot in snapshots(vm) if snapshot.tag == tag)


def restore_snapshot(store: VmStore, name: str, tag: str | None = None) -> Snapshot:
    """Return a VM that does not run to a snapshot, by default the latest; its present state is lost.

    Configuration, disk and firmware variables are as they were. With memory in the snapshot the VM is suspended then,
    and its next run goes on there. Raises VmMissing, VmRunning, SnapshotMissing, NoSpace, FileTrouble.
    """
    vm = store.open(name)
    snapshot = _chosen(vm, tag)
    with store.work_folder() as work, store.alone():
        if vm.supervisor():
            raise VmRunning(name)
        copy_parts(VmFolder(snapshot.tag, snapshot.path), work)
        _bring_along(vm.path, work)
        store.install(work, name)
    return snapshot


def delete_snapshot(store: VmStore, name: str, tag: str) -> None:
    """Forget a snapshot; the VM may run. Raises VmMissing, SnapshotMissing, FileTrouble."""
    vm = store.open(name)
    snapshot = _chosen(vm, tag)
    try:
        with store.work_folder() as grave:
            os.rename(snapshot.path, grave / snapshot.tag)
            sync_folder(vm.path / SNAPSHOTS)
    except FileNotFoundError as exc:
        raise SnapshotMissing(name, tag) from exc
    except OSError as exc:
        raise FileTrouble("cannot delete the snapshot", snapshot.path, exc) from exc


def copy_parts(source: VmFolder, work: Path) -> None:
    """Give the empty folder `work` what makes the VM `source`, which does not run; a saved machine is shared too."""
    config = source.config()
    report = copied_disk(source, config, work)
    for name in (NVRAM, OWN_VARIABLES, STATE, NETWORK):
        if os.path.lexists(source.path / name):
            _linked(source.path / name, work / name) if name == STATE else copied(source.path / name, work)
    config_file.create(work / "config.json", replace(config, disk_format=str(report.format)))


def place(work: Path, folder: Path, name: str, tag: str) -> None:
    """Move a finished snapshot into the folder of the VM `name`. Raises SnapshotExists, FileTrouble."""
    try:
        write_new(work / "snapshot.json", json.dumps({"created": time.time()}).encode())
        sync_folder(work)
        os.makedirs(folder / SNAPSHOTS, exist_ok=True)
        move_if_free(work, folder / SNAPSHOTS / tag)
        sync_folder(folder / SNAPSHOTS)
    except FileExistsError as exc:
        raise SnapshotExists(name, tag) from exc
    except OSError as exc:
        raise FileTrouble("cannot put the snapshot in place in", folder, exc) from exc


async def _of_running(vm: VmFolder, tag: str) -> None:
    from tartlet.vm.control.ask import asked

    async with asked(vm, "snapshot", tag=tag, name=vm.name) as answer:
        kind = str(answer.told["disk_format"])
    config = vm.config()
    if config.disk_format != kind:  # the supervisor cannot: opening the file would cost it its lock
        config_file.write(vm.config_path, replace(config, disk_format=kind))


def _of_stopped(store: VmStore, vm: VmFolder, tag: str) -> None:
    with store.work_folder() as work, store.alone():
        if vm.supervisor():
            raise VmRunning(vm.name)
        copy_parts(vm, work)
        place(work, vm.path, vm.name, tag)


def _chosen(vm: VmFolder, tag: str | None) -> Snapshot:
    found = snapshots(vm)
    if tag is None and found:
        return found[-1]
    for snapshot in found:
        if snapshot.tag == tag:
            return snapshot
    raise SnapshotMissing(vm.name, tag)


def _bring_along(old: Path, new: Path) -> None:
    """Give the new folder of a VM what the old one has beside its state: links, or copies where there are none."""
    for path in _files(old):
        target = new / path.relative_to(old)
        if path.parent == old and (path.name in _REPLACED or is_base_name(path.name)):
            continue
        os.makedirs(target.parent, exist_ok=True)
        _linked(path, target)


def _files(folder: Path) -> Iterator[Path]:
    """The regular files below a folder; sockets, links and work in progress are not worth keeping."""
    for name in names_in(folder):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        elif path.is_file() and not path.is_symlink() and not name.startswith("."):
            yield path


def _linked(source: Path, target: Path) -> None:
    """The same file under another name: nobody writes to it. A copy where there are no links."""
    try:
        os.link(source, target)
    except FileExistsError as exc:
        raise FileTrouble("cannot make", target, exc) from exc
    except OSError:
        if not reflink(source, target):
            sparse_copy(source, target, sync=True)
