"""A network namespace with one thread in it: what is to happen inside is handed to that thread.

The namespace of a Linux thread is its own, and programs, sockets and taps belong to the namespace of the thread that
makes them. So one process stands with one leg in each of two networks.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
SHELTER = Path("/dev/shm")  # noqa: S108 - covered by a file system of our own
"""A folder that every Linux has and that no program is started from."""


class Inside:
    """A thread in a network namespace of its own, or in that of the process."""

    def __init__(self, *, own_network: bool = True) -> None:
        """Raises PermissionError where a new namespace is not allowed."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inside")
        if own_network:
            self.do(_leave_network)
        self.descriptor = self.do(os.open, "/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        """Stands for the namespace; programs enter it by this."""

    def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have the thread inside do something, and wait for it. Raises what `work` raises."""
        return self._thread.submit(work, *args, **kwargs).result()

    def end(self) -> None:
        """End the thread. The namespace stands as long as its descriptor, which is the caller's now, or a process."""
        self._thread.shutdown()

    async def done(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for an event loop, which goes on meanwhile. It is waited for even when the task is cancelled."""
        import asyncio

        import anyio

        future = self._thread.submit(work, *args, **kwargs)
        with anyio.CancelScope(shield=True):
            await asyncio.wait([asyncio.wrap_future(future)])
        return future.result()


def cover(folder: Path) -> None:
    """Hide `folder` under an empty file system in memory. The process must be in a mount namespace of its own.

    What is written there is gone when the processes of the namespace are, however they end. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tartlet", os.fsencode(folder), b"tmpfs", 0, b"mode=0700"):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))


def _leave_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
