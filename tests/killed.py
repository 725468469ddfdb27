"""Kill a piece of work with SIGKILL at every point where that could make a difference, one point after the other.

Each attempt runs in a forked child, so what it leaves behind is what a real death leaves: files, no clean-up. The work
knows nothing of it: the interpreter tells the child of each call into the C modules that wrap the system's, and of each
line of those functions of the program that call the system themselves.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import tartlet

_PROGRAM = str(Path(tartlet.__file__).parent)

_CALLS = """
chmod chown copy_file_range fork_exec fsync ftruncate ioctl link mkdir open posix_fallocate pwrite rename replace rmdir
sendfile symlink truncate unlink utime waitpid write
"""
"""Being killed before another one (read, close) leaves the same world as before the next of these."""


_BY_HAND = frozenset({"ctypes", "libc", "_libc"})
"""A function that knows one of these names calls the system without a module in between."""


def deaths(work: Callable[[], object]) -> Iterator[int]:
    """Run `work` again and again, killed one point later each time; gives the point's number after each death.

    A point is a system call that changes something or takes time. Ends with the first attempt that reaches its end
    alive; one that fails by itself is an error here. The caller puts the world back before asking for the next.
    """
    point = 1
    while _dies_at(point, work):
        yield point
        point += 1
    assert point > 1, "the work has no point to die at"


def _dies_at(point: int, work: Callable[[], object]) -> bool:
    child = os.fork()
    if child == 0:
        _work_until(point, work)
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended in (0, -signal.SIGKILL), f"the work failed by itself at point {point}, exit code {ended}"
    return ended == -signal.SIGKILL


def _work_until(point: int, work: Callable[[], object]) -> None:
    reached, counted = 0, frozenset(_CALLS.split())

    def reach() -> None:
        nonlocal reached
        reached += 1
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def at_line(frame: FrameType, event: str, _: Any) -> Any:  # noqa: ANN401 - the shape sys.settrace asks for
        code = frame.f_code
        if not code.co_filename.startswith(_PROGRAM) or _BY_HAND.isdisjoint(code.co_names + code.co_varnames):
            return None
        if event == "line":
            reach()
        return at_line

    def at_call(_: FrameType, event: str, what: Any) -> None:  # noqa: ANN401 - the shape sys.setprofile asks for
        if event == "c_call" and what.__name__ in counted:
            reach()

    code = 0
    try:
        sys.settrace(at_line)
        sys.setprofile(at_call)
        work()
        sys.setprofile(None)
    except BaseException:  # noqa: BLE001 - a forked test must not go on as a second pytest
        sys.setprofile(None)
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)
