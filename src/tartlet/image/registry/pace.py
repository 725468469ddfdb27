"""How many transfers go on at the same time, and how long to wait after a failure.

A registry that drops connections or answers 429 gets half as many transfers; every success beyond that many gives
one back. Waiting times are random up to a bound that doubles ("full jitter"), so that many clients do not come back
in step.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime

import anyio

ATTEMPTS = 5
"""How often something is tried before its failure is reported."""

_FIRST_DELAY, _LONGEST_DELAY = 1.0, 20.0
LONGEST_RETRY_AFTER = 300.0
"""Seconds that a registry may ask to wait; with more the failure is reported at once."""


class Pace:
    """A limit of transfers that adapts between one and `most`."""

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._limit = anyio.CapacityLimiter(self._most)
        self._successes = 0

    @property
    def at_once(self) -> int:
        """Transfers that may go on at the same time now."""
        return int(self._limit.total_tokens)

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Take part in the transfers for the length of the block."""
        holder = object()
        await self._limit.acquire_on_behalf_of(holder)
        try:
            yield
        finally:
            self._limit.release_on_behalf_of(holder)

    def failed(self) -> None:
        """A connection was dropped, or the registry said that it is too much."""
        self._successes = 0
        self._limit.total_tokens = max(1, self.at_once // 2)

    def succeeded(self) -> None:
        """A transfer went through."""
        self._successes += 1
        if self._successes >= self.at_once < self._most:
            self._successes = 0
            self._limit.total_tokens = self.at_once + 1


def delay_before(retry: int, asked: float | None = None) -> float:
    """Seconds to wait before retry number `retry` (from 0); at least `asked`, what the registry wants."""
    jitter = random.uniform(0, min(_LONGEST_DELAY, _FIRST_DELAY * 2**retry))
    return jitter if asked is None else asked + min(jitter, 1.0)


def read_retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks to wait (RFC 9110 §10.2.3); None without a readable one."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
