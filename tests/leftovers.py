"""What a test left behind on this machine: processes, mounts and loop devices that outlived it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

MARK = "TARTLET_TEST_RUN"
"""Variable in the environment of this run; whatever the tests start inherits it, daemons with another parent too."""


def mark_this_run() -> None:
    """Give this process a mark that no other run has. Programs started from now on carry it."""
    os.environ[MARK] = f"{os.getpid()}-{time.monotonic_ns()}"


def process_ids() -> frozenset[int]:
    """Every process there is; empty where there is no /proc."""
    with suppress(FileNotFoundError):
        return frozenset(int(name) for name in os.listdir("/proc") if name.isdecimal())
    return frozenset[int]()


def survivors(before: frozenset[int], grace: float) -> list[str]:
    """Command lines of this run's programs that are not in `before` and still live after `grace` seconds."""
    deadline = time.monotonic() + grace
    while True:
        alive = [told for pid in process_ids() - before - {os.getpid()} if (told := _ours(pid))]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.05)


def mounts_below(folder: Path) -> list[str]:
    """Mount points inside `folder`, as this process sees them."""
    try:
        rows = Path("/proc/self/mountinfo").read_text().splitlines()
    except FileNotFoundError:
        return []
    points = (row.split()[4].encode().decode("unicode_escape") for row in rows)
    return sorted(point for point in points if Path(point).is_relative_to(folder))


def loop_devices_on(folder: Path) -> list[str]:
    """Loop devices whose file stands in `folder`."""
    found = [(_text(path), path.parent.parent.name) for path in _loop_backings()]
    return sorted(device for file, device in found if Path(file).is_relative_to(folder))


def _loop_backings() -> Iterable[Path]:
    return Path("/sys/block").glob("loop*/loop/backing_file")


def _ours(pid: int) -> str | None:
    wanted = f"{MARK}={os.environ[MARK]}".encode()
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except ProcessLookupError:  # so do newer kernels tell that it has no memory any more
        environment, words = b"", []
    except OSError:  # it ended meanwhile, or belongs to somebody else
        return None
    if not environment and _is_ending(pid):
        return f"{pid}, which is ending"
    if wanted not in environment.split(b"\0"):
        return None
    return f"{pid}: {' '.join(word.decode(errors='replace') for word in words).strip()}"


_EXITING = 0x4  # PF_EXITING of Linux' sched.h


def _is_ending(pid: int) -> bool:
    """Whether a process has given its memory back, but perhaps not yet its files and their locks."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if told[0] == "Z":
            return len(os.listdir(f"/proc/{pid}/task")) > 1
        return bool(int(told[6]) & _EXITING)
    except OSError:
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
