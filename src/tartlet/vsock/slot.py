"""A VM's vsock device: plugged in when somebody wants to reach the guest by it, taken out before the machine is saved.

Where this host's kernel can, it carries the device; else a process of ours does, which needs no rights.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import socket
import struct
import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

import anyio

from tartlet.errors import UserError
from tartlet.hypervisor.plug import plug_in, take_out
from tartlet.hypervisor.process import Process, spawned
from tartlet.hypervisor.qmp import CommandFailed, Monitor

log = logging.getLogger(__name__)

KERNEL = Path("/dev/vhost-vsock")
_DEVICE = "vsock"
_GUEST = 3
"""The guest's address (CID) where it needs to be known to one process only."""

_ATTEMPTS = 5
"""At a free address: they are of the whole host, and there is no list of them."""

_GRACE = 1.0
_PACKAGES = Path(__file__).parents[2]
"""The folder that holds this package, for a Python that is started without any others."""
_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from tartlet.vsock.program import main; main()"
_ORDER = struct.Struct("<I")
"""As in `program`, which is not loaded here."""


class CannotPlug(UserError):
    """This VM cannot have a vsock device."""


class Carrier(Protocol):
    """Who carries the device."""

    async def connect(self, port: int) -> socket.socket:
        """A non-blocking connection to a port of the guest. Raises OSError: nobody listens, or the carrier has gone."""
        ...


def kernel_lacks() -> str | None:
    """Why this host's kernel does not carry vsock devices for this user; None when it does."""
    if not KERNEL.exists():
        return f"{KERNEL} does not exist"
    return None if os.access(KERNEL, os.R_OK | os.W_OK) else f"this user may not open {KERNEL}"


class VsockSlot:
    """The place for it."""

    def __init__(self, monitor: Monitor, log_file: Path, *, shared_memory: bool) -> None:
        """What our own process complains of goes to `log_file`. It needs memory that is shared with QEMU."""
        self._monitor, self._log_file, self._shared_memory = monitor, log_file, shared_memory
        self._lock = anyio.Lock()
        self._held = AsyncExitStack()
        self._carrier: Carrier | None = None
        self.transport = "vsock"
        """By what the guest is reached, in words."""

    @property
    def is_plugged(self) -> bool:
        """Whether the guest has the device."""
        return self._carrier is not None

    @property
    def possible(self) -> bool:
        """Whether this VM can have one."""
        return sys.platform == "linux" and (self._shared_memory or kernel_lacks() is None)

    async def connect(self, port: int, within: float, when_new: float) -> socket.socket:
        """A non-blocking connection to a port of the guest; the device is plugged in for it if need be.

        The guest gets `within` seconds to answer, or `when_new` if it has to find the device first; a guest without
        the driver never does. They begin when the device is there: others may keep it out for long.
        Raises OSError (ConnectionRefusedError: nobody listens), TimeoutError, CannotPlug, CommandFailed,
        MonitorUnreachable.
        """
        async with self._lock:
            seconds = within if self.is_plugged else when_new
            carrier = self._carrier or await self._plugged_in()
        try:
            with anyio.fail_after(seconds):
                return await carrier.connect(port)
        except BrokenPipeError:
            await self.empty()  # the process that carried it has died: the next one is another's
            raise

    @asynccontextmanager
    async def kept_empty(self) -> AsyncGenerator[None]:
        """Take the device out for the length of the block. Raises StillPlugged, MonitorUnreachable."""
        async with self._lock:
            await self._taken_out()
            yield

    async def empty(self) -> None:
        """Take the device out, whoever uses it. Raises StillPlugged, MonitorUnreachable."""
        async with self._lock:
            await self._taken_out()

    async def close(self) -> None:
        """QEMU has ended, or will at once: end what carries the device."""
        self._carrier = None
        await self._held.aclose()

    async def _plugged_in(self) -> Carrier:
        if not self.possible:
            raise CannotPlug(f"this VM cannot have a vsock device: it is a fork, and {kernel_lacks()}")
        self._held = AsyncExitStack()
        try:
            self._carrier = await (self._by_kernel() if kernel_lacks() is None else self._by_ourselves())
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._held.aclose()
            raise
        return self._carrier

    async def _taken_out(self) -> None:
        if self._carrier is None:
            return
        await take_out(self._monitor, _DEVICE)
        self._carrier = None
        with anyio.CancelScope(shield=True):
            await self._held.aclose()

    async def _by_kernel(self) -> Carrier:
        self.transport = f"vsock, carried by {KERNEL}"
        device = os.open(KERNEL, os.O_RDWR | os.O_CLOEXEC)
        self._held.callback(os.close, device)
        for left in reversed(range(_ATTEMPTS)):
            guest = _GUEST + secrets.randbelow(0x7FFFFFFF)
            await self._monitor.give(_DEVICE, device)
            try:
                await plug_in(
                    self._monitor, _DEVICE, {"driver": "vhost-vsock-pci", "guest-cid": guest, "vhostfd": _DEVICE}
                )
            except CommandFailed as exc:
                if not left:
                    raise
                log.debug("the guest cannot have the vsock address %d: %s", guest, exc)
            else:
                return _Kernel(guest)
        raise AssertionError("unreachable")

    async def _by_ourselves(self) -> Carrier:
        self.transport = f"vsock, carried by Tartlet itself because {kernel_lacks()}"
        qemus, ours = socket.socketpair()
        orders, orders_taken = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with qemus, ours, orders_taken:
            self._held.callback(orders.close)
            await self._held.enter_async_context(self._process(ours, orders_taken))
            await self._monitor.give(_DEVICE, qemus.fileno())
            address = {"type": "fd", "data": {"str": _DEVICE}}
            await self._monitor.add_chardev(_DEVICE, "socket", {"addr": address, "server": False})
        self._held.push_async_callback(self._forget_socket)
        # What a guest does with event indices is not told to whoever carries the device (QEMU 7.2).
        await plug_in(
            self._monitor, _DEVICE, {"driver": "vhost-user-vsock-pci", "chardev": _DEVICE, "event_idx": False}
        )
        return _Ours(orders)

    def _process(self, qemu: socket.socket, orders: socket.socket) -> AbstractAsyncContextManager[Process]:
        descriptors = (qemu.fileno(), orders.fileno())
        words = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(_PACKAGES), *map(str, descriptors), str(_GUEST)]
        return spawned(words, log_file=self._log_file, pass_fds=descriptors, grace=_GRACE)

    async def _forget_socket(self) -> None:
        try:
            await self._monitor.remove_chardev(_DEVICE)
        except UserError as exc:  # QEMU has ended
            log.debug("the vsock device's socket stays in QEMU: %s", exc)


class _Kernel:
    """The host's kernel."""

    def __init__(self, guest: int) -> None:
        self._guest = guest

    async def connect(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (self._guest, port))
        except BaseException:
            sock.close()
            raise
        return sock


class _Ours:
    """A process of ours."""

    def __init__(self, orders: socket.socket) -> None:
        orders.setblocking(False)
        self._orders = orders

    async def connect(self, port: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            with theirs:
                socket.send_fds(self._orders, [_ORDER.pack(port)], [theirs.fileno()])
            await _accepted(ours)
        except BaseException:
            ours.close()
            raise
        return ours


async def _accepted(ours: socket.socket) -> None:
    """The process says so with one byte."""
    if not await asyncio.get_running_loop().sock_recv(ours, 1):
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
