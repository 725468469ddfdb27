"""Names to folders: the local VMs of one home."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

from tartlet.errors import FileTrouble, InvalidArgument, UserError
from tartlet.host import access_time, scratch
from tartlet.host.files import exchange, move_if_free, removed, sync_folder
from tartlet.host.locks import file_lock, try_process_lock
from tartlet.host.paths import Home, made
from tartlet.vm.stored.folder import VmFolder, VmIncomplete
from tartlet.vm.stored.model import VmConfig, VmState, checked_new_name, mac_numbers


class VmMissing(UserError):
    """No VM has that name."""

    exit_code = 2

    def __init__(self, name: str) -> None:
        super().__init__(f'the specified VM "{name}" does not exist', _what_to_do(name))
        self.name = name


def _what_to_do(name: str) -> str:
    from tartlet.image.format.reference import looks_remote

    if looks_remote(name):
        return f"it names an image: make a VM of it first with tart clone {name} NAME"
    return "`tart list` shows the VMs there are"


class VmRunning(UserError):
    """The VM runs, and what was asked for needs it stopped."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'VM "{name}" is running',
            f"stop it first: tart stop {name}; or wait, if it is being pushed or exported",
        )
        self.name = name


class VmNotRunning(UserError):
    """The VM does not run, and what was asked for needs it to."""

    exit_code = 2

    def __init__(self, name: str, hint: str | None = None) -> None:
        super().__init__(f'VM "{name}" is not running', hint or f"start it first: tart run {name}")
        self.name = name


class VmStore:
    """The local VMs of a home. Its methods block only for the time a file system takes, except `alone`."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def folder(self, name: str) -> VmFolder:
        """Where a VM of that name is or would be."""
        return VmFolder(name, self.home.vms / name)

    def names(self) -> list[str]:
        """The names of all complete VMs, in ascending order. No access date changes."""
        try:
            entries = os.listdir(self.home.vms)
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise FileTrouble("cannot list", self.home.vms, exc) from exc
        return sorted(name for name in entries if self.folder(name).is_vm())

    def all(self) -> list[VmFolder]:
        """All complete VMs in ascending order of their names."""
        return [self.folder(name) for name in self.names()]

    def open(self, name: str) -> VmFolder:
        """The VM of that name, marked as used now. Raises VmMissing, VmIncomplete, FileTrouble."""
        vm = self.find(name)
        access_time.mark(vm.path)
        return vm

    def find(self, name: str) -> VmFolder:
        """The VM of that name, its access date left alone. Raises VmMissing, VmIncomplete."""
        vm = self.folder(name)
        if name in ("", ".", "..") or "/" in name or "\0" in name or not vm.path.is_dir():
            raise VmMissing(name)
        if not vm.is_vm():
            raise VmIncomplete(name)
        return vm

    def work_folder(self) -> AbstractContextManager[Path]:
        """A locked folder on the VMs' file system to prepare a VM in, as a context manager."""
        return scratch.scratch_folder(self.home.tmp)

    @contextmanager
    def alone(self) -> Generator[None]:
        """Hold the home's lock, waiting for it: nobody else adds or starts a VM meanwhile."""
        with file_lock(self.home.root):
            yield

    def install(self, folder: Path, name: str) -> VmFolder:
        """Move a finished folder (of `work_folder`) to its name in one step, replacing a stopped VM of that name.

        Raises InvalidArgument for a bad name, VmRunning, FileTrouble.
        """
        vm = self.folder(checked_new_name(name))
        try:
            sync_folder(folder)
            made(self.home.vms)
            self._moved(folder, vm)
            sync_folder(self.home.vms)
        except OSError as exc:
            raise FileTrouble("cannot put the VM in place at", vm.path, exc) from exc
        return vm

    def _moved(self, folder: Path, vm: VmFolder) -> None:
        while True:
            with suppress(FileExistsError):
                move_if_free(folder, vm.path)
                return
            with suppress(FileNotFoundError), not_running(vm):
                exchange(folder, vm.path)
                removed(folder)  # what stood there before; a collector finishes this if we cannot
                return

    def rename(self, name: str, new_name: str) -> VmFolder:
        """Give a VM, running or not, another name that is free. Raises InvalidArgument, FileTrouble."""
        checked_new_name(new_name)
        old, new = self.folder(name), self.folder(new_name)
        if "/" in name or not old.is_vm():
            raise InvalidArgument(
                f'failed to rename a non-existent VM: "{name}"', "`tart list` shows the VMs there are"
            )
        if new.is_vm():
            raise InvalidArgument(
                f'failed to rename: VM "{new_name}" already exists', "delete it first, or choose another"
            )
        try:
            move_if_free(old.path, new.path)
            sync_folder(self.home.vms)
        except OSError as exc:
            raise FileTrouble(f'cannot rename VM "{name}" to', new.path, exc) from exc
        return new

    def delete(self, name: str) -> None:
        """Remove a VM that does not run, in one step for whoever looks. Raises VmMissing, VmRunning, FileTrouble."""
        vm = self.folder(name)
        if name in ("", ".", "..") or "/" in name or not os.path.lexists(vm.config_path):
            raise VmMissing(name)
        with not_running(vm):
            self._discard(vm)

    def _discard(self, vm: VmFolder) -> None:
        try:
            scratch.discarded(vm.path, self.home.tmp)
        except FileNotFoundError as exc:
            raise VmMissing(vm.name) from exc
        except OSError as exc:
            raise FileTrouble(f'cannot delete VM "{vm.name}" at', vm.path, exc) from exc

    def same_mac(self, mac: str, *, besides: str = "", only_running: bool = False) -> VmFolder | None:
        """The first VM with that address, other than `besides`. Raises BadConfig, FileTrouble."""
        for vm in self.all():
            if vm.name == besides or (only_running and vm.state() is not VmState.RUNNING):
                continue
            if mac_numbers(vm.config().mac_address) == mac_numbers(mac):
                return vm
        return None

    def save_config(self, vm: VmFolder, before: VmConfig, after: VmConfig) -> None:
        """Save a changed configuration; a new MAC address ends a suspension. Raises FileTrouble."""
        from tartlet.vm.stored import config_file

        if before.mac_address != after.mac_address:  # first: a saved machine with another address fits nothing
            removed(vm.state_path)
        config_file.write(vm.config_path, after)


@contextmanager
def not_running(vm: VmFolder) -> Generator[None]:
    """Keep `vm` from being started for the length of the block. Raises VmRunning, FileNotFoundError, LockTrouble."""
    if not os.path.lexists(vm.config_path):
        if os.path.isdir(vm.path):  # not a VM at all: nothing could start it
            yield
            return
        raise FileNotFoundError(vm.path)
    descriptor = try_process_lock(vm.config_path)
    if descriptor is None:
        raise VmRunning(vm.name)
    with closing(os.fdopen(descriptor, "rb")):
        yield
