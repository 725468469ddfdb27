"""A VM's line to the process that holds its network, which is started when there is none."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import IO, Any

import anyio

from tartlet.network.attachment import AttachRequest
from tartlet.network.rules.plug import Plug
from tartlet.network.shared import keepers, wire
from tartlet.network.shared.conversation import Asking, Refused
from tartlet.network.shared.keepers import Keeper, start_apart, taken_in
from tartlet.network.shared.wire import Hangup


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What one VM was given in the network."""

    plug: Plug
    """Where it hangs on the network, for the VM's rules."""
    tap: int
    """Descriptor of the tap, for QEMU."""
    lifeline: int
    """QEMU inherits it, and does nothing with it: the place is given back when its last copy is closed."""
    alarm: int
    users: int
    """The user namespace that the network belongs to."""
    network: int
    """The network namespace."""

    @property
    def address(self) -> IPv4Address:
        """The guest's own."""
        return self.plug.address

    @property
    def entering(self) -> list[str]:
        """Words before a program's that start it in the network, with every right there."""
        ours = f"/proc/{os.getpid()}/fd"
        users, network = f"--user={ours}/{self.users}", f"--net={ours}/{self.network}"
        return ["nsenter", users, network, "--preserve-credentials", "--"]

    async def ended(self) -> str:
        """Wait until the network's process has ended, and tell what it said of the reason."""
        await anyio.wait_readable(self.alarm)
        return os.read(self.alarm, 4096).decode(errors="replace")

    def close(self) -> None:
        """Give up this process's copies."""
        for descriptor in (self.tap, self.lifeline, self.alarm, self.users, self.network):
            os.close(descriptor)


class Line(Asking):
    """A connection to the process that holds a private network."""

    async def attach(self, request: AttachRequest, *, isolated: bool) -> Place:
        """Take a place in the network. Raises MacTaken, Refused, Hangup."""
        keep, mac = request.keep, request.mac.lower()
        wish = keep.guest_address if keep else None
        asked = {"vm": request.vm, "mac": mac, "mode": request.mode, "wish": wish, "isolated": isolated}
        told, (tap, lifeline, alarm, users, network) = await self.asked({"do": "attach", **asked})
        plug = Plug(
            tap=told["tap"],
            bridge=told["bridge"],
            mac=mac,
            address=IPv4Address(told["address"]),
            gateway=IPv4Address(told["gateway"]),
        )
        return Place(plug=plug, tap=tap, lifeline=lifeline, alarm=alarm, users=users, network=network)

    async def isolate(self, isolated: bool) -> None:
        """Whether this VM exchanges nothing with other isolated ones. Raises Refused, Hangup."""
        await self.asked({"do": "isolate", "isolated": isolated})

    async def new_socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """A TCP or UDP socket of the network. Raises OSError."""
        try:
            _, descriptors = await self.asked({"do": "socket", "kind": kind.value})
        except (Hangup, Refused) as exc:
            raise OSError(errno.ENETUNREACH, f"no socket in the network: {exc}") from exc
        if not descriptors:  # this process has no room for more: the kernel dropped it
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return socket.socket(fileno=descriptors[0])


@asynccontextmanager
async def joined(network: str, request: AttachRequest, *, isolated: bool = True) -> AsyncGenerator[tuple[Line, Place]]:
    """A place in this user's network of that name for the length of the block; the first VM starts the network.

    The guest is mute there until it has rules of its own. `isolated`: it exchanges nothing with other isolated guests.
    Raises MacTaken, and BackendUnusable: it does not start, does not answer, or will not take this VM.
    """
    keeper = _keeper(network)
    connection, place = await taken_in(keeper, lambda one: Line(one).attach(request, isolated=isolated))
    with connection, closing(place):
        yield Line(connection), place


async def asked(network: str, question: dict[str, Any]) -> dict[str, Any] | None:
    """What the process that holds this user's network of that name answers; None when there is none.

    Raises BackendUnusable: it does not answer, or is somebody else's.
    """
    return await keepers.asked(_keeper(network), question)


def _keeper(network: str) -> Keeper:
    return Keeper(backend=network, address=wire.name(network), owners=frozenset({os.getuid()}), start=_started)


def _started(listener: socket.socket) -> IO[bytes]:
    """Start the process that holds the network; gives what it will print.

    It belongs to nobody: `setsid --fork` ends at once, and what it started outlives the VM that wanted it first.
    """
    held = [sys.executable, "-P", "-m", "tartlet.network.namespace.holder", str(listener.fileno())]
    apart = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--", *held]
    return start_apart(apart, listener)
