"""Tasks beside a block."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio


@asynccontextmanager
async def beside(*tasks: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[None]:
    """Run tasks for the length of the block. A failure of the block is raised as it is; one of a task in a group."""
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(task)
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - raised below, where the group does not wrap it
            failure = exc
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
