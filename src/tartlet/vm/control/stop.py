"""What one process asks of the supervisor in another: stop, suspend; and waiting for its end."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import cast

from tartlet.errors import FileTrouble, TimeIsUp, UserError
from tartlet.host.files import removed
from tartlet.host.watched import WatchedProcess, watched
from tartlet.units import human_count
from tartlet.vm.stored.ended import LastRun, last_run_in
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.store import VmMissing, VmNotRunning

DEFAULT_TIMEOUT = 30
"""Seconds a supervisor gets to power its VM off before it is killed."""


_LAST_GASP = 5
"""Seconds to wait for a killed supervisor to be gone, so that a `delete` right after finds the VM stopped."""


class StopFailed(UserError):
    """The supervisor could not be ended."""

    def __init__(self, name: str, cause: OSError) -> None:
        super().__init__(
            f'failed to stop VM "{name}": {cause.strerror}', "it runs as another user; stop it as that user or as root"
        )


class StillRunning(TimeIsUp):
    """The VM did not end in the time it was given."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(
            f'VM "{name}" still runs after {human_count(seconds, "second")}', f"wait again, or end it: tart stop {name}"
        )


def stop(vm: VmFolder, timeout: float = DEFAULT_TIMEOUT) -> None:
    """Power the VM off, or drop the saved state of a suspended one.

    The supervisor gets SIGINT and `timeout` seconds, then SIGKILL, with which its QEMU dies too.
    Raises VmNotRunning, StopFailed, FileTrouble.
    """
    with watched(vm.supervisor) as process:
        if process is None:
            _drop_state(vm)
            return
        with suppress(OSError):  # whether it got through shows below
            process.signal(signal.SIGINT)
        if not _released_within(vm, process, timeout):
            _kill(vm, process)


def _drop_state(vm: VmFolder) -> None:
    if not os.path.lexists(vm.state_path):
        raise VmNotRunning(vm.name, f"there is nothing to stop; `tart wait {vm.name}` tells how its last run ended")
    try:
        removed(vm.state_path)
    except OSError as exc:
        raise FileTrouble("cannot delete the saved state", vm.state_path, exc) from exc


def _released_within(vm: VmFolder, process: WatchedProcess, timeout: float) -> bool:
    """Whether the VM's lock came free in time; its holder may live on a little to say goodbye."""
    deadline = time.monotonic() + timeout
    while vm.supervisor() == process.pid:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        process.ended_within(min(left, 0.1))
    return True


def _kill(vm: VmFolder, process: WatchedProcess) -> None:
    try:
        process.signal(signal.SIGKILL)
    except ProcessLookupError:
        return
    except OSError as exc:
        raise StopFailed(vm.name, exc) from exc
    process.ended_within(_LAST_GASP)


async def request_suspend(vm: VmFolder) -> None:
    """Tell the supervisor to save the machine and end; does not wait for that.

    Raises VmNotRunning, StillStarting, SupervisorGone, FileTrouble, and Refused when this VM cannot be suspended.
    """
    from tartlet.vm.control.ask import asked

    async with asked(vm, "suspend"):
        pass


def wait_until_stopped(vm: VmFolder, timeout: float | None = None) -> LastRun:
    """Wait for the end of the present run, if there is one, and tell how the last one ended.

    Raises VmMissing, and StillRunning after `timeout` seconds; None waits for ever.
    """
    try:
        with vm.opened() as folder:  # the VM may be renamed meanwhile
            with watched(vm.supervisor) as process:
                if process is not None and not process.ended_within(timeout):
                    raise StillRunning(vm.name, cast("float", timeout))
            return last_run_in(folder)
    except FileNotFoundError as exc:
        raise VmMissing(vm.name) from exc
