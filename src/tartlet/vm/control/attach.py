"""`tart console`: this process's terminal on the serial console of a running VM, until `^]` or the VM's end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import termios
import tty
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager, suppress

import anyio
import anyio.lowlevel

from tartlet.vm.control.ask import asked
from tartlet.vm.stored.folder import VmFolder

ESCAPE = b"\x1d"
"""Ctrl+]."""

_PIECE = 64 << 10


async def attach(vm: VmFolder, attached: Callable[[], None]) -> bool:
    """Join descriptors 0 and 1 to the guest's serial console; whether it was left while the VM goes on.

    `attached` is called when it begins.
    A terminal is raw meanwhile: every key is the guest's, except Ctrl+], which detaches. Input that ends, like a file,
    only ends the typing. SIGTERM, SIGHUP and output that nobody reads any more leave it too.
    Raises VmNotRunning, Refused, SupervisorGone.
    """
    ended = anyio.Event()
    async with asked(vm, "console") as answer:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
            attached()
            with _raw(0):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_cancel_on, signals, tasks.cancel_scope)
                    tasks.start_soon(_show, answer.sock, answer.rest, tasks.cancel_scope, ended)
                    if not await _type(answer.sock):
                        await anyio.sleep_forever()  # until the guest has said everything
                    tasks.cancel_scope.cancel()
    return not ended.is_set()


async def _show(sock: socket.socket, piece: bytes, scope: anyio.CancelScope, ended: anyio.Event) -> None:
    with suppress(BrokenPipeError):  # whoever read it has left
        with suppress(ConnectionResetError):
            while piece or (piece := await asyncio.get_running_loop().sock_recv(sock, _PIECE)):
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(1, rest) :]
                piece = b""
        ended.set()
    scope.cancel()


async def _type(sock: socket.socket) -> bool:
    """Send what is typed until its end; whether the escape ended it."""
    while data := await _read():
        before, escape, _ = data.partition(ESCAPE)
        if before:
            with suppress(ConnectionError):  # the other task sees the end too
                await asyncio.get_running_loop().sock_sendall(sock, before)
        if escape:
            return True
    return False


async def _read() -> bytes:
    try:
        await anyio.wait_readable(0)
    except PermissionError:  # a file is always ready, and epoll does not take it
        await anyio.lowlevel.checkpoint()
    try:
        return os.read(0, _PIECE)
    except OSError:  # closed, or a terminal that has hung up
        return b""


async def _cancel_on(signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
        return


@contextmanager
def _raw(descriptor: int) -> Generator[None]:
    """Every byte as it is typed, for the length of the block; nothing when this is no terminal."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
