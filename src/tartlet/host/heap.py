"""How this process takes memory from the system."""

from __future__ import annotations

import ctypes
import sys

_ARENA_MAX = -8
"""`M_ARENA_MAX` of glibc's malloc.h."""


def share_heap() -> None:
    """Let all threads take memory from one heap, where the C library is glibc. For programs, before they have threads.

    glibc gives each thread a heap of its own. Large blocks that one thread makes and another frees then leave room in
    all of them which nobody uses: a fifth of what a push needs. The threads seldom meet, as they compute in between.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_ARENA_MAX, 1)
