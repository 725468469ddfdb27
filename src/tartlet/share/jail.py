"""The room virtiofsd runs in: it sees the shared folders and nothing else, and whatever it makes belongs to one user.

Runs as a program of its own between the supervisor and virtiofsd, without any package: new namespaces, the tree of
folders, ids, then it becomes virtiofsd. Needs no privileges: everything happens in a user namespace.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import resource
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

from tartlet.share import kernel, seccomp
from tartlet.share.idmap import GUEST_USER, ids_of, only, swapped

SOURCE = "{source}"
NO_NAMESPACES = "this system forbids namespaces to the sandbox of shared folders"

_NOT_ALLOWED = (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS, errno.ENOSYS)
"""How systems say that this process may have no namespaces; ENOSPC stands for a limit of zero."""

_SYS_ADMIN = 21
_CAPABILITIES = (0, 1, 3, 4, 6, 7, 8, 18, 31)
"""What virtiofsd wants of chown, dac_override, fowner, fsetid, setgid, setuid, setpcap, sys_chroot, setfcap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """One folder of the tree."""

    path: str
    name: str | None
    """Its name in the tree's root; None when it is the root."""
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Jail:
    """What the process is told, as JSON in its only word."""

    parent: int
    """The process it dies with."""
    root: str
    """An empty folder to mount the tree on; nobody outside sees that."""
    folders: list[Folder]
    words: list[str]
    """virtiofsd's, with SOURCE where the folder to share belongs."""
    guarded: bool
    """virtiofsd itself was told to let nothing be written."""

    @classmethod
    def read(cls, text: str) -> Jail:
        """The same from JSON."""
        told: dict[str, Any] = json.loads(text)
        folders = [Folder(**folder) for folder in told["folders"]]
        return cls(
            parent=told["parent"], root=told["root"], folders=folders, words=told["words"], guarded=told["guarded"]
        )


def main() -> None:
    """Become virtiofsd, or say in one line why not and end with 1."""
    jail = Jail.read(sys.argv[1])
    try:
        source = os.open(_entered(jail), os.O_PATH | os.O_DIRECTORY)
        os.set_inheritable(source, True)
        # A path of which no part has to be quoted. (virtiofsd changes its working directory: that would not do.)
        os.execv(jail.words[0], [word.replace(SOURCE, f"/proc/self/fd/{source}/.") for word in jail.words])  # noqa: S606 - this is what the process is for
    except OSError as exc:
        sys.exit(f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror)


def _entered(jail: Jail) -> str:
    """Where the folders are, for a process that may do no more than it must from here on."""
    try:
        _build(jail)
    except OSError as exc:
        source = _without_namespaces(jail, exc)
    else:
        source = jail.root
        kernel.hand_on_capabilities(_CAPABILITIES)
    kernel.filter_calls(seccomp.program(platform.machine()))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one descriptor for each file that the guest knows
    kernel.die_with_parent(signal.SIGKILL)
    if os.getppid() != jail.parent:  # it died before there was anything to die with
        os._exit(1)
    return source


def _without_namespaces(jail: Jail, cause: OSError) -> str:
    """In containers that allow no namespaces one folder can still be shared, under the host's ids."""
    if cause.errno not in _NOT_ALLOWED:
        raise cause
    if any(folder.name or (folder.read_only and not jail.guarded) for folder in jail.folders):
        raise OSError(cause.errno, f"{NO_NAMESPACES} ({cause.strerror})") from cause
    return jail.folders[0].path


def _build(jail: Jail) -> None:
    _new_namespaces(*_owner(jail.folders[0].path))
    kernel.keep_capabilities()
    os.setresgid(GUEST_USER, GUEST_USER, GUEST_USER)
    os.setresuid(GUEST_USER, GUEST_USER, GUEST_USER)
    kernel.have_capabilities((*_CAPABILITIES, _SYS_ADMIN))
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_SLAVE)
    _plant(jail)


def _owner(path: str) -> tuple[int, int]:
    """Whose the guest's files are: the caller's; root lets them be those of whoever owns the folder."""
    if os.geteuid():
        return os.geteuid(), os.getegid()
    found = os.stat(path)
    return found.st_uid, found.st_gid


def _new_namespaces(uid: int, gid: int) -> None:
    flags = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC
    if os.geteuid():
        kernel.unshare(flags)
        _write_maps("self", {"setgroups": "deny", "gid_map": only(gid), "uid_map": only(uid)})
        return
    maps = {
        kind: swapped(owner, ids_of(_read(f"/proc/self/{kind}")))
        for kind, owner in (("gid_map", gid), ("uid_map", uid))
    }
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _write_from_outside(maps, reading, writing)
    kernel.unshare(flags)
    os.write(writing, b".")
    if os.waitpid(child, 0)[1]:
        raise PermissionError(errno.EPERM, "the ids of the guest cannot be mapped")
    os.setgroups([])


def _write_from_outside(maps: dict[str, str], reading: int, writing: int) -> NoReturn:
    """Root may write any map for a namespace it is not in. Done by a child, once its parent has left."""
    os.close(writing)
    status = 1
    try:
        if os.read(reading, 1):
            _write_maps(str(os.getppid()), maps)
            status = 0
    finally:
        os._exit(status)


def _write_maps(process: str, maps: dict[str, str]) -> None:
    for kind, text in maps.items():
        with open(f"/proc/{process}/{kind}", "w", encoding="ascii") as file:
            file.write(text)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _plant(jail: Jail) -> None:
    """Mount the folders on the root: one without a name as the root itself, others as folders in it."""
    copies = [(kernel.copied_mount(folder.path), folder) for folder in jail.folders]
    kernel.make_read_only("/", below=True)  # whatever virtiofsd could be brought to do, it writes nowhere else
    with _root_of_names(jail) if any(folder.name for folder in jail.folders) else nullcontext():
        for copy, folder in copies:
            _put(copy, os.path.join(jail.root, folder.name or ""), read_only=folder.read_only)


@contextmanager
def _root_of_names(jail: Jail) -> Generator[None]:
    """Let the root be a folder of folders, which are made in the block and which nobody changes after it."""
    kernel.mount("tmpfs", jail.root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, "mode=0755")
    for folder in jail.folders:
        os.mkdir(os.path.join(jail.root, str(folder.name)))
    yield
    kernel.make_read_only(jail.root, below=False)


def _put(copy: int, place: str, *, read_only: bool) -> None:
    kernel.put(copy, place)
    os.close(copy)
    if read_only:
        # What the host mounts below it later would arrive writable.
        kernel.mount("none", place, flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.make_read_only(place, below=True)
