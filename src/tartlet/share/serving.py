"""Folders on their way to a guest: one virtiofsd for each tag, in a jail, connected before QEMU exists."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from tartlet.errors import UserError
from tartlet.host.scratch import scratch_folder
from tartlet.host.sockets import connected, listening
from tartlet.hypervisor.process import Process, spawned
from tartlet.hypervisor.shared_folder import SharedFolder
from tartlet.share import virtiofsd
from tartlet.share.arguments import Group
from tartlet.share.virtiofsd import Virtiofsd

log = logging.getLogger(__name__)

START = 10.0
"""Seconds virtiofsd has to answer; it takes some dozens of milliseconds."""

_GRACE = 2.0
_PACKAGES = Path(__file__).parents[2]
"""The folder that holds this package, for a Python that is started without any others."""
_INTO_JAIL = "import sys; sys.path.insert(0, sys.argv.pop(1)); from tartlet.share.jail import main; main()"

_HEADER = struct.Struct("III")
"""Request, flags, size of what follows (QEMU, docs/interop/vhost-user.rst)."""
_GET_FEATURES, _VERSION, _REPLY_SIZE = 1, 1, 8


class ShareFailed(UserError):
    """A folder cannot be shared: its server does not start."""

    def __init__(self, group: Group, why: str) -> None:
        paths = ", ".join(share.path for share in group.shares)
        super().__init__(f"cannot share {paths} with the guest: {why}", _hint(why))
        self.group = group


class ShareLost(UserError):
    """The server of a running guest's folders ended by itself."""


@dataclass(frozen=True, slots=True)
class SharedFolders:
    """Folders that are being served."""

    devices: tuple[SharedFolder, ...] = ()
    _servers: tuple[tuple[Group, Process], ...] = ()

    async def lost(self) -> ShareLost:
        """Wait until one of the servers has ended by itself, and tell that as an error; for ever when there is none."""
        ended: list[Group] = []
        async with anyio.create_task_group() as tasks:

            async def watch(group: Group, process: Process) -> None:
                await process.wait()
                ended.append(group)
                tasks.cancel_scope.cancel()

            for server in self._servers:
                tasks.start_soon(watch, *server)
            tasks.start_soon(anyio.sleep_forever)
        return ShareLost(
            f"virtiofsd, which serves {', '.join(share.path for share in ended[0].shares)} to the guest, ended",
            "the guest would wait for it for ever: run the VM again",
        )


@asynccontextmanager
async def serving(groups: Sequence[Group], tmp: Path) -> AsyncGenerator[SharedFolders]:
    """Serve folders of this host for the length of the block. Paths must be absolute.

    Raises ToolMissing, ShareFailed.
    """
    if not groups:
        yield SharedFolders()
        return
    program = virtiofsd.find()
    async with AsyncExitStack() as held:
        devices: list[SharedFolder] = []
        servers: list[tuple[Group, Process]] = []
        for index, group in enumerate(groups):
            # Open until here, so that no server ends before QEMU's end has been seen.
            ours, process = await held.enter_async_context(_served(program, group, tmp))
            devices.append(SharedFolder(tag=group.tag, descriptor=ours.fileno(), index=index))
            servers.append((group, process))
        yield SharedFolders(tuple(devices), tuple(servers))


@asynccontextmanager
async def _served(program: Virtiofsd, group: Group, tmp: Path) -> AsyncGenerator[tuple[socket.socket, Process]]:
    async with AsyncExitStack() as held:
        work = held.enter_context(scratch_folder(tmp))
        listener = held.enter_context(listening(work, "socket"))
        listener.setblocking(True)  # as virtiofsd expects it
        ours = held.enter_context(connected(work, "socket"))
        (work / "root").mkdir()
        words = [sys.executable, "-I", "-S", "-c", _INTO_JAIL, str(_PACKAGES)]
        words.append(_jail(program, group, work / "root", listener.fileno()))
        server = spawned(words, log_file=work / "log", pass_fds=[listener.fileno()], grace=_GRACE)
        process = await held.enter_async_context(server)
        listener.close()
        await _answering(group, ours, process)
        yield ours, process


def _jail(program: Virtiofsd, group: Group, root: Path, listener: int) -> str:
    """What `jail.Jail` reads."""
    guarded = program.can_guard and all(share.read_only for share in group.shares)
    told = {
        "parent": os.getpid(),
        "root": str(root),
        "folders": [{"path": share.path, "name": share.name, "read_only": share.read_only} for share in group.shares],
        "words": program.words(listener, guarded=guarded),
        "guarded": guarded,
    }
    return json.dumps(told)


async def _answering(group: Group, ours: socket.socket, process: Process) -> None:
    """Ask what QEMU will ask first, so that whatever is wrong is known before QEMU starts. Raises ShareFailed."""
    ours.send(_HEADER.pack(_GET_FEATURES, _VERSION, 0))
    try:
        with anyio.fail_after(START):
            if await _received(ours, _HEADER.size + _REPLY_SIZE):
                return
            status = await process.wait()
    except TimeoutError as exc:
        raise ShareFailed(group, f"virtiofsd did not answer within {START:g} seconds") from exc
    raise ShareFailed(group, process.log_tail() or f"virtiofsd ended with status {status}")


async def _received(ours: socket.socket, size: int) -> bool:
    """Take that many bytes, which may come in pieces; False when the other end closes first."""
    while size:
        await anyio.wait_readable(ours)
        try:
            piece = ours.recv(size)
        except ConnectionError:
            return False
        if not piece:
            return False
        size -= len(piece)
    return True


def _hint(why: str) -> str:
    if "forbids namespaces" in why:
        return "without them one folder for each tag can be shared, without a name and not read-only"
    if "chroot" in why:
        return "this host forbids user namespaces; install the virtiofsd written in Rust, which needs none"
    return "try it with TART_LOG=debug for the words virtiofsd was started with"
