"""The process that holds a network, seen by those who want something of it: where it listens, and how it is started."""

from __future__ import annotations

import errno
import logging
import shlex
import socket
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar

import anyio

from tartlet.network.attachment import BackendUnusable, Lack
from tartlet.network.shared import wire
from tartlet.network.shared.addresses import MacTaken
from tartlet.network.shared.conversation import START, Asking, Refused
from tartlet.network.shared.wire import Hangup

log = logging.getLogger(__name__)

_LINGERING = 2.0
"""Seconds for which a MAC address that is taken may be this very VM's: QEMU outlives a killed supervisor a little."""

_PAUSE = 0.005
_BACKLOG = 256
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """Where the process is."""

    backend: str
    """For messages."""
    address: str
    """Of its socket."""
    owners: frozenset[int] | None
    """The users who may hold it; None where only the right one can listen."""
    start: Callable[[socket.socket], IO[bytes]] | None
    """Starts it with a listening socket and gives what it will print; None: others do that."""

    def unusable(self, reason: str, hint: str | None = None) -> BackendUnusable:
        """The error that says why the network is not to be had."""
        return BackendUnusable(self.backend, Lack(reason=reason, hint=hint))

    def mute(self) -> BackendUnusable:
        """The error of one that does not answer."""
        return self.unusable(f"it did not answer within {START:g} seconds")

    def check_owner(self, connection: socket.socket) -> None:
        """Raises BackendUnusable, and the connection is closed."""
        owner = wire.peer_uid(connection)
        if self.owners is not None and owner not in self.owners:
            connection.close()
            raise self.unusable(f"user {owner} pretends to hold the network of this one")


async def taken_in(keeper: Keeper, attach: Callable[[socket.socket], Awaitable[T]]) -> tuple[socket.socket, T]:
    """A connection to the process, which is started if it can be, and what `attach` got by it.

    Raises MacTaken, and BackendUnusable: it does not start, does not answer, or will not take this VM.
    """
    try:
        with anyio.fail_after(START):
            return await _taken_in(keeper, attach)
    except TimeoutError as exc:
        raise keeper.mute() from exc
    except Refused as exc:
        raise keeper.unusable(str(exc), exc.hint) from exc


async def asked(keeper: Keeper, question: dict[str, Any]) -> dict[str, Any] | None:
    """What the process answers; None when there is none. Raises BackendUnusable: it does not answer, or is foreign."""
    with wire.new_socket() as connection:
        connection.setblocking(False)
        try:
            connection.connect(keeper.address)
        except (ConnectionRefusedError, FileNotFoundError, PermissionError):
            return None
        keeper.check_owner(connection)
        try:
            return await Asking(connection).ask(question)
        except TimeoutError as exc:
            raise keeper.mute() from exc
        except Hangup:  # its last VM has ended in this moment
            return None


def start_apart(words: Sequence[str], listener: socket.socket) -> IO[bytes]:
    """Start a process that belongs to nobody and outlives this one; gives what it will print."""
    output = TemporaryFile()  # noqa: SIM115 - the caller closes it
    log.debug("start: %s", shlex.join(words))
    subprocess.run(
        ["setsid", "--fork", *words],
        pass_fds=[listener.fileno()],
        stdin=listener.fileno(), stdout=output, stderr=output, cwd="/", check=False,
    )  # fmt: skip
    return output


async def _taken_in(keeper: Keeper, attach: Callable[[socket.socket], Awaitable[T]]) -> tuple[socket.socket, T]:
    """Ask again when the one that was asked was just ending, or a machine with the same MAC address may be."""
    lingering = anyio.current_time() + _LINGERING
    while True:
        connection, output = await _connected(keeper)
        with output or nullcontext():
            try:
                return connection, await attach(connection)
            except Hangup as exc:
                connection.close()
                if output is not None:
                    raise keeper.unusable(_last_words(output)) from exc
            except MacTaken:
                connection.close()
                if anyio.current_time() > lingering:
                    raise
            except BaseException:
                connection.close()
                raise
        await anyio.sleep(_PAUSE)


async def _connected(keeper: Keeper) -> tuple[socket.socket, IO[bytes] | None]:
    """A connection, and what the process prints if it was started for this."""
    while True:
        connection = wire.new_socket()
        connection.setblocking(False)
        try:
            connection.connect(keeper.address)
        except (ConnectionRefusedError, FileNotFoundError, PermissionError) as exc:  # nobody listens
            if keeper.start is None:
                connection.close()
                raise keeper.unusable(f"{keeper.address}: {exc.strerror}") from exc
            with wire.new_socket() as listener:
                if _bound(listener, keeper.address):
                    connection.connect(keeper.address)
                    return connection, keeper.start(listener)
        except BlockingIOError:  # very many at once
            log.debug("the network's process has a queue")
        else:
            keeper.check_owner(connection)
            return connection, None
        connection.close()
        await anyio.sleep(_PAUSE)


def _bound(listener: socket.socket, address: str) -> bool:
    """Whether the name is ours now, and somebody can connect to it."""
    try:
        listener.bind(address)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:  # another one is starting it in this moment
            return False
        raise
    listener.listen(_BACKLOG)
    return True


def _last_words(output: IO[bytes]) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "its process ended without a word"
