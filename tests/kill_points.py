"""Kill a piece of work with SIGKILL at each line of the program it reaches, one line after the other.

Each attempt runs in a forked child, so what it leaves behind is what a real death leaves: files, no clean-up.
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


def deaths(work: Callable[[], object], *, every: int = 1) -> Iterator[int]:
    """Run `work` again and again, killed at line 1, 1 + `every`, …; yields that number after each death.

    Ends with the first attempt that reaches its end alive. An attempt that fails by itself is an error here.
    """
    point = 1
    while _dies_at(point, work):
        yield point
        point += every


def _dies_at(point: int, work: Callable[[], object]) -> bool:
    child = os.fork()
    if child == 0:
        _work_until(point, work)
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended in (0, -signal.SIGKILL), f"the work failed by itself at point {point}, exit code {ended}"
    return ended == -signal.SIGKILL


def _work_until(point: int, work: Callable[[], object]) -> None:
    reached = 0

    def watch(frame: FrameType, event: str, _: Any) -> Any:  # noqa: ANN401 - the shape sys.settrace asks for
        nonlocal reached
        if not frame.f_code.co_filename.startswith(_PROGRAM):
            return None
        if event == "line":
            reached += 1
            if reached == point:
                os.kill(os.getpid(), signal.SIGKILL)
        return watch

    code = 0
    try:
        sys.settrace(watch)
        work()
    except BaseException:  # noqa: BLE001 - a forked test must not go on as a second pytest
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)
