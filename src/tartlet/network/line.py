"""A VM's line to the process that holds its network, which is started when there is none."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing, nullcontext
from dataclasses import dataclass
from ipaddress import IPv4Address
from tempfile import TemporaryFile
from typing import IO, Any

import anyio

from tartlet.errors import UserError
from tartlet.network import wire
from tartlet.network.addresses import MacTaken
from tartlet.network.attachment import AttachRequest, BackendUnusable, Lack
from tartlet.network.plug import Plug
from tartlet.network.wire import Hangup

log = logging.getLogger(__name__)

START = 15.0
"""Seconds the process gets to take a VM in; it needs some 0.2 when it has to start, else some 0.02."""

_LINGERING = 2.0
"""Seconds for which a MAC address that is taken may be this very VM's: QEMU outlives a killed supervisor a little."""

_PAUSE = 0.005
_BACKLOG = 256


class Refused(UserError):
    """The network will not take this VM."""


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


class Line:
    """A connection to the process that holds a network. One question at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._alone = connection, anyio.Lock()

    async def attach(self, request: AttachRequest, *, isolated: bool) -> Place:
        """Take a place in the network. Raises MacTaken, Refused, Hangup."""
        keep, mac = request.keep, request.mac.lower()
        wish = keep.guest_address if keep else None
        asked = {"vm": request.vm, "mac": mac, "mode": request.mode, "wish": wish, "isolated": isolated}
        told, (tap, lifeline, alarm, users, network) = await self._asked({"do": "attach", **asked})
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
        await self._asked({"do": "isolate", "isolated": isolated})

    async def new_socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """A TCP or UDP socket of the network. Raises OSError."""
        try:
            _, descriptors = await self._asked({"do": "socket", "kind": kind.value})
        except (Hangup, Refused) as exc:
            raise OSError(errno.ENETUNREACH, f"no socket in the network: {exc}") from exc
        if not descriptors:  # this process has no room for more: the kernel dropped it
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return socket.socket(fileno=descriptors[0])

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Something that is answered without descriptors. Raises Refused, Hangup."""
        told, _ = await self._asked(question)
        return told

    async def _asked(self, question: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        async with self._alone:
            wire.send(self._connection, question)
            await anyio.wait_readable(self._connection)
            told, descriptors = wire.receive(self._connection)
        if told.get("taken"):
            raise MacTaken(told["taken"])
        if "error" in told:
            raise Refused(told["error"], told["hint"])
        return told, descriptors


@asynccontextmanager
async def joined(network: str, request: AttachRequest, *, isolated: bool = True) -> AsyncGenerator[tuple[Line, Place]]:
    """A place in this user's network of that name for the length of the block; the first VM starts the network.

    The guest is mute there until it has rules of its own. `isolated`: it exchanges nothing with other isolated guests.
    Raises MacTaken, and BackendUnusable: it does not start, does not answer, or will not take this VM.
    """
    try:
        with anyio.fail_after(START):
            connection, place = await _taken_in(network, request, isolated)
    except TimeoutError as exc:
        raise _mute(network) from exc
    except Refused as exc:
        raise BackendUnusable(network, Lack(reason=str(exc), hint=exc.hint)) from exc
    with connection, closing(place):
        yield Line(connection), place


async def asked(network: str, question: dict[str, Any]) -> dict[str, Any] | None:
    """What the process that holds this user's network of that name answers; None when there is none.

    Raises BackendUnusable: it does not answer, or is somebody else's.
    """
    with wire.new_socket() as connection:
        connection.setblocking(False)
        try:
            connection.connect(wire.name(network))
        except ConnectionRefusedError:
            return None
        _check_owner(connection, network)
        try:
            with anyio.fail_after(START):
                return await Line(connection).ask(question)
        except TimeoutError as exc:
            raise _mute(network) from exc
        except Hangup:  # its last VM has ended in this moment
            return None


def _mute(network: str) -> BackendUnusable:
    return BackendUnusable(network, Lack(reason=f"it did not answer within {START:g} seconds"))


async def _taken_in(network: str, request: AttachRequest, isolated: bool) -> tuple[socket.socket, Place]:
    """Ask again when the one that was asked was just ending, or a machine with the same MAC address may be."""
    lingering = anyio.current_time() + _LINGERING
    while True:
        connection, output = await _connected(network)
        with output or nullcontext():
            try:
                return connection, await Line(connection).attach(request, isolated=isolated)
            except Hangup as exc:
                connection.close()
                if output is not None:
                    raise BackendUnusable(network, Lack(reason=_last_words(output))) from exc
            except MacTaken:
                connection.close()
                if anyio.current_time() > lingering:
                    raise
            except BaseException:
                connection.close()
                raise
        await anyio.sleep(_PAUSE)


async def _connected(network: str) -> tuple[socket.socket, IO[bytes] | None]:
    """A connection to the process that holds the network, and what it prints if it was started for this."""
    name = wire.name(network)
    while True:
        connection = wire.new_socket()
        connection.setblocking(False)
        try:
            connection.connect(name)
        except ConnectionRefusedError:  # nobody listens
            with wire.new_socket() as listener:
                if _bound(listener, name):
                    connection.connect(name)
                    return connection, _started(listener)
        except BlockingIOError:  # very many at once
            log.debug("the network's process has a queue")
        else:
            _check_owner(connection, network)
            return connection, None
        connection.close()
        await anyio.sleep(_PAUSE)


def _bound(listener: socket.socket, name: str) -> bool:
    """Whether the name is ours now, and somebody can connect to it."""
    try:
        listener.bind(name)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:  # another one is starting it in this moment
            return False
        raise
    listener.listen(_BACKLOG)
    return True


def _check_owner(connection: socket.socket, network: str) -> None:
    owner = wire.peer_uid(connection)
    if owner != os.getuid():
        connection.close()
        raise BackendUnusable(network, Lack(reason=f"user {owner} pretends to hold the network of this one"))


def _started(listener: socket.socket) -> IO[bytes]:
    """Start the process that holds the network; gives what it will print.

    It belongs to nobody: `setsid --fork` ends at once, and what it started outlives the VM that wanted it first.
    """
    output = TemporaryFile()  # noqa: SIM115 - the caller closes it
    held = [sys.executable, "-P", "-m", "tartlet.network.holder", str(listener.fileno())]
    apart = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--", *held]
    log.debug("start: %s", shlex.join(apart))
    subprocess.run(
        ["setsid", "--fork", *apart],
        pass_fds=[listener.fileno()],
        stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", check=False,
    )  # fmt: skip
    return output


def _last_words(output: IO[bytes]) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "its process ended without a word"
