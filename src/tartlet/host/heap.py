"""How a program that moves images takes memory from the system, and looks for what it can give back."""

from __future__ import annotations

import ctypes
import gc
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""As in glibc's malloc.h (mallopt(3))."""

_KEPT = 256 << 20
"""Bytes of free memory that are kept for the next blocks: more than a transfer ever has."""
_LARGE = 32 << 20
"""Bytes from which a block is a mapping of its own; the most that glibc takes."""


def tune_memory() -> None:
    """Set a program up for transfers, when all it needs is loaded and before it has threads.

    What is loaded stays: Python need not search it for garbage every few hundred requests. And all threads take memory
    from one heap, where the C library is glibc, which gives each a heap of its own. Large blocks that one thread makes
    and another frees then leave room in all of them which nobody uses: now and then a sixth of what a push needs. The
    threads seldom meet, as they compute in between. What is freed is kept: to give it back and take it again, page by
    page, costs a push a tenth of its processor time.
    """
    gc.freeze()
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            for setting, value in ((_ARENA_MAX, 1), (_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _LARGE)):
                mallopt(setting, value)
