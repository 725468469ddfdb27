"""What QEMU tells of a machine that runs, in this program's words.

Specification: QEMU, qapi/run-state.json (SHUTDOWN, RESET, ShutdownCause) and qapi/char.json (VSERPORT_CHANGE).
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from tartlet.hypervisor.qmp import Monitor
from tartlet.hypervisor.qmp_events import Event, Events

_WINDOW_CLOSED = ("host-ui", "host-qmp-quit")
"""What QEMU calls it when its window is closed: SDL and Cocoa the first, GTK the second."""


class ShutDown(enum.Enum):
    """The machine has stopped for good, by whom."""

    BY_GUEST = "guest"
    BY_WINDOW = "window"
    """Its window was closed; or QEMU was told to quit, which is how one of its windows does that."""
    BY_OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Restarted:
    """The machine was reset: its guest starts anew."""


@dataclass(frozen=True, slots=True)
class PortChanged:
    """A program in the guest has opened or closed a virtio port."""

    id: str
    is_open: bool


News = ShutDown | Restarted | PortChanged


@contextmanager
def machine_news(monitor: Monitor) -> Generator[AsyncGenerator[News]]:
    """What is told from now on until QEMU has gone, for the length of the block."""
    with monitor.listening("SHUTDOWN", "RESET", "VSERPORT_CHANGE") as events:
        yield _translated(events)


async def _translated(events: Events) -> AsyncGenerator[News]:
    async for event in events:
        yield _news(event)


def _news(event: Event) -> News:
    if event.name == "RESET":
        return Restarted()
    if event.name == "VSERPORT_CHANGE":
        return PortChanged(str(event.data.get("id")), bool(event.data.get("open")))
    if event.data.get("guest"):
        return ShutDown.BY_GUEST
    return ShutDown.BY_WINDOW if event.data.get("reason") in _WINDOW_CLOSED else ShutDown.BY_OTHERS
