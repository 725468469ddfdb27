"""Long work in worker threads, a few milliseconds at a time, so that a cancelled task ends at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from anyio import to_thread

_STEPS_A_TURN = 8
"""Steps of about a MiB for each visit to a worker thread, which on a busy machine waits for its turn."""

_T = TypeVar("_T")


async def outcome(steps: Iterator[_T | None]) -> _T | None:
    """Take blocking steps, which give None, up to the one that gives something, and give that; None without one.

    Raises what a step raises.
    """

    def turn() -> tuple[bool, _T | None]:
        for _ in range(_STEPS_A_TURN):
            try:
                value = next(steps)
            except StopIteration:
                return True, None
            if value is not None:
                return True, value
        return False, None

    is_over, value = False, None
    while not is_over:
        is_over, value = await to_thread.run_sync(turn)
    return value
