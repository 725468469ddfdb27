"""`tart-net-helper`: the privileged process that gives VMs a place in the host's own network. One for the host.

It needs the capabilities CAP_NET_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE, no others. It is started in two ways:

    by a service manager that passes the listening socket (sd_listen_fds(3)): everybody who can connect is served
    tart-net-helper --listen-fd N: root and the user who made the socket are served, and it ends with their last VM
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import resource
import socket
import sys
from pathlib import Path

import anyio

from tartlet.errors import UserError
from tartlet.host.files import removed
from tartlet.network import preferences
from tartlet.network.bridge.host_door import Door
from tartlet.network.bridge.host_network import HostNetwork
from tartlet.network.bridge.host_service import Service
from tartlet.network.shared import dnsmasq, wire
from tartlet.network.shared.inside import SHELTER, cover

_FIRST_PASSED = 3
_LINGER_OF_SERVICE, _LINGER_ON_DEMAND = 30.0, 0.2
"""Seconds without anybody after which it ends. A service manager does not like to start something all the time."""

_BACKLOG = 256
_NEW_MOUNTS = 0x00020000
_PRIVATE = (1 << 18) | 16384
"""`MS_PRIVATE | MS_REC`: mounts made here are not seen outside."""


def main() -> None:
    """Serve until nobody is left."""
    words = argparse.ArgumentParser(prog="tart-net-helper", description="Gives VMs a place in the host's own network.")
    words.add_argument("--listen-fd", type=int, metavar="N", help="the listening socket; it ends with the last VM")
    words.add_argument("--debug", action="store_true", help="tell on standard error what happens")
    given = words.parse_args()
    logging.basicConfig(level=logging.DEBUG if given.debug else logging.WARNING, format="%(name)s: %(message)s")
    trouble: list[Exception] = []
    try:
        listener, owner = _listener(given.listen_fd)
        _prepare_process()
        dnsmasq.shield_from_reloads()
        anyio.run(_served, listener, owner, _folder(), preferences.read(preferences.SYSTEM_FILE))
    except* (UserError, OSError) as failures:
        trouble = _leaves(failures)
    if trouble:
        sys.exit("; ".join(str(failure) for failure in trouble))


async def _served(listener: socket.socket, owner: int | None, folder: Path, known: preferences.Preferences) -> None:
    """`owner` is the user who started this; None: whoever can connect is served."""
    async with anyio.create_task_group() as tasks:
        network = HostNetwork(known, folder, tasks)
        service = Service(network, tasks, quota=known.vms_per_user)
        door = Door(service, tasks, admits=lambda uid: owner is None or uid in (0, owner))
        await door.keep(listener, _LINGER_OF_SERVICE if owner is None else _LINGER_ON_DEMAND)
        tasks.cancel_scope.cancel()


def _listener(number: int | None) -> tuple[socket.socket, int | None]:
    """The socket, and the user who made it for his own VMs."""
    if number is None and os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise UserError(
            "tart-net-helper is started by `tart` or by a service manager, which pass it a socket",
            "tart network setup installs it",
        )
    listener = socket.socket(fileno=_FIRST_PASSED if number is None else number)
    listener.setblocking(False)
    listener.set_inheritable(False)
    if number is None:
        return listener, None
    owner = wire.peer_uid(listener)
    listener.listen(_BACKLOG)  # whoever connects from now on sees that root listens
    return listener, owner


def _prepare_process() -> None:
    """Find programs where only root looks, and have room for the descriptors of many VMs."""
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _folder() -> Path:
    """An empty folder for the servers' files: the service manager's, or one in memory that ends with this process."""
    runtime = os.environ.get("RUNTIME_DIRECTORY")
    if runtime is None:
        _leave_mounts()
        cover(SHELTER)
        return SHELTER
    folder = Path(runtime.partition(":")[0], "servers")
    removed(folder)
    folder.mkdir(mode=0o700)
    return folder


def _leave_mounts() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS) or libc.mount(None, b"/", None, _PRIVATE, None):
        number = ctypes.get_errno()
        raise OSError(number, f"no mounts of its own, and RUNTIME_DIRECTORY is not set: {os.strerror(number)}")


def _leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    return [
        leaf for one in group.exceptions for leaf in (_leaves(one) if isinstance(one, BaseExceptionGroup) else [one])
    ]


if __name__ == "__main__":
    main()
