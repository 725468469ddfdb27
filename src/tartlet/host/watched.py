"""Other processes of this machine: signalled and waited for without mistaking a successor for them."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

_LOOK = 0.02
"""Seconds between looks where the system has no descriptor for a process."""


class WatchedProcess:
    """A process that is not our child. Its number may be reused after its death; this object never is."""

    def __init__(self, pid: int, descriptor: int | None) -> None:
        self.pid = pid
        self._descriptor = descriptor

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Raises ProcessLookupError when it is gone, PermissionError."""
        if self._descriptor is None:
            os.kill(self.pid, number)
        else:
            signal.pidfd_send_signal(self._descriptor, number)

    def ended_within(self, seconds: float | None) -> bool:
        """Wait until it is gone, for at most `seconds` (None: for ever); whether it is."""
        if self._descriptor is not None:
            ready, _, _ = select.select([self._descriptor], [], [], seconds)
            return bool(ready)
        return _looked_up_until(lambda: not _exists(self.pid), seconds)

    async def ended(self) -> None:
        """Wait until it is gone."""
        import anyio

        if self._descriptor is not None:
            await anyio.wait_readable(self._descriptor)
            return
        while _exists(self.pid):  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(_LOOK)


@contextmanager
def watched(find: Callable[[], int]) -> Generator[WatchedProcess | None]:
    """The process whose number `find` tells (0: none), held so that its number cannot come to mean another.

    `find` is asked again once the process is held: only an unchanged answer counts.
    """
    pid = find()
    if not pid:
        yield None
        return
    descriptor = _held(pid)
    try:
        yield WatchedProcess(pid, descriptor) if find() == pid else None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _held(pid: int) -> int | None:
    if sys.platform == "linux":
        with suppress(ProcessLookupError):
            return os.pidfd_open(pid)
    return None


def _looked_up_until(done: Callable[[], bool], seconds: float | None) -> bool:
    """Where the system has no descriptor for a process."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while not done():
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK)
    return True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
