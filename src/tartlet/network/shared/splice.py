"""Connections to a guest that the host's own network does not reach: accepted here, carried on there.

The bytes stay in the kernel: they move from one socket to the other through a pipe (splice(2)) and are never copied
into this process.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Address

import anyio

from tartlet.network.shared.loopback import PortTaken

log = logging.getLogger(__name__)

Reach = Callable[[], Awaitable[socket.socket]]
"""Gives a connected, non-blocking socket. Raises OSError."""

AT_ONCE = 100
"""Connections to one VM. Each takes six descriptors of the 1024 that a process usually has; further ones wait."""

_BACKLOG = 64
_ROOM = 1 << 18
"""Bytes that a pipe holds, and that move at once at most. The pipes of an ordinary user share 64 MiB."""

_RESET = struct.pack("ii", 1, 0)
_NONBLOCK = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE if sys.platform == "linux" else 0
_PAUSE = 0.1
"""Seconds without accepting when this process has no descriptor left."""


async def serve(listener: socket.socket, reach: Reach, room: anyio.Semaphore) -> None:
    """Carry every connection to `listener`, which does not block; for ever. `room` is for all listeners of a VM."""
    async with anyio.create_task_group() as tasks:
        while True:
            await room.acquire()
            tasks.start_soon(_carried, await _accepted(listener), reach, room)


@contextmanager
def listening(doors: Iterable[tuple[str, int, int]]) -> Generator[list[tuple[socket.socket, int]]]:
    """Listen at addresses and ports for the length of the block; gives each socket with the port of the guest that it
    leads to. Raises PortTaken."""
    with ExitStack() as held:
        yield [(held.enter_context(_listener(address, port)), guest_port) for address, port, guest_port in doors]


async def connected(address: IPv4Address, port: int, own: socket.socket | None = None) -> socket.socket:
    """`own`, or a new socket of this namespace, connected to a port of a guest. Raises OSError, and it is closed."""
    guest = own or socket.socket()
    try:
        guest.setblocking(False)
        guest.connect_ex((str(address), port))
        await anyio.wait_writable(guest)
        if number := guest.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, os.strerror(number))  # noqa: TRY301 - that is how a socket tells it
    except BaseException:
        guest.close()
        raise
    return guest


def _listener(address: str, port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        raise PortTaken(address, port, exc) from exc
    listener.setblocking(False)
    return listener


async def _accepted(listener: socket.socket) -> socket.socket:
    while True:
        await anyio.wait_readable(listener)
        try:
            return listener.accept()[0]
        except BlockingIOError:
            continue
        except OSError as exc:
            log.debug("cannot accept: %s", exc)
            await anyio.sleep(_PAUSE)


async def _carried(client: socket.socket, reach: Reach, room: anyio.Semaphore) -> None:
    """One connection from its first to its last byte. The client sees a reset where the guest cannot be reached."""
    with client, _given_back(room):
        client.setblocking(False)
        try:
            with await reach() as guest:
                try:
                    await _joined(client, guest)
                except OSError:
                    _reset(guest)
                    raise
        except OSError as exc:
            log.debug("a connection ended: %s", exc)
            _reset(client)


@contextmanager
def _given_back(room: anyio.Semaphore) -> Generator[None]:
    try:
        yield
    finally:
        room.release()


async def _joined(client: socket.socket, guest: socket.socket) -> None:
    for end in (client, guest):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_moved, client, guest)
            tasks.start_soon(_moved, guest, client)
    except* OSError as failures:
        raise OSError(errno.ECONNRESET, str(failures.exceptions[0])) from failures


async def _moved(source: socket.socket, target: socket.socket) -> None:
    """Move bytes until the source says its last, and say so to the target."""
    with _pipe() as (out, into):
        while True:
            held = await _patiently(anyio.wait_readable, source, source.fileno(), into, _ROOM)
            if not held:
                break
            while held:
                held -= await _patiently(anyio.wait_writable, target, out, target.fileno(), held)
    with suppress(OSError):  # it may have said its own last word and left
        target.shutdown(socket.SHUT_WR)


async def _patiently(
    ready: Callable[[socket.socket], Awaitable[None]], waited_for: socket.socket, source: int, target: int, count: int
) -> int:
    """Bytes that went from one descriptor to the other; waits only when nothing can go at once."""
    while True:
        try:
            return os.splice(source, target, count, flags=_NONBLOCK)
        except BlockingIOError:
            await ready(waited_for)


@contextmanager
def _pipe() -> Generator[tuple[int, int]]:
    out, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # an ordinary user has a limit on the sum; the usual 64 KiB will do
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _ROOM)
        yield out, into
    finally:
        os.close(out)
        os.close(into)


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
