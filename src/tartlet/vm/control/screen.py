"""The screen, keyboard and pointer of a running VM, from any process; no window and no VNC is needed."""

from __future__ import annotations

import os
from collections.abc import Sequence

import anyio

from tartlet.console import keys
from tartlet.vm.control.ask import asked
from tartlet.vm.stored.folder import VmFolder

_BETWEEN_STROKES = 0.03
"""Seconds between two strokes: a USB keyboard holds 16 events that its guest has not fetched."""


async def screenshot(vm: VmFolder) -> bytes:
    """What the guest's screen shows now, as a PNG file. Raises VmNotRunning, Refused, SupervisorGone."""
    async with asked(vm, "screenshot") as answer:
        (picture,) = answer.descriptors
        return os.pread(picture, os.fstat(picture).st_size, 0)


async def type_text(vm: VmFolder, text: str) -> None:
    """Type `text` on the guest's keyboard, which it takes for an American one; `\\n` is the enter key.

    Raises UnknownKey (before anything is typed), VmNotRunning, Refused, SupervisorGone.
    """
    for stroke in keys.text_strokes(text):
        await _sent(vm, stroke)
        await anyio.sleep(_BETWEEN_STROKES)


async def press_keys(vm: VmFolder, chord: str) -> None:
    """Press and release keys together, such as `enter` or `ctrl-alt-delete`.

    Raises UnknownKey, VmNotRunning, Refused, SupervisorGone.
    """
    await _sent(vm, keys.chord(chord))


async def move_pointer(vm: VmFolder, x: float, y: float) -> None:
    """Move the pointer: `x` and `y` go from 0 (left, top) to 1.

    Raises InvalidArgument, VmNotRunning, Refused, SupervisorGone.
    """
    await _sent(vm, keys.pointer(x, y))


async def click(vm: VmFolder, x: float, y: float, button: str = "left") -> None:
    """Move the pointer and click: `left`, `middle`, `right`, or turn the wheel: `wheel-up`, `wheel-down`.

    Raises InvalidArgument, VmNotRunning, Refused, SupervisorGone.
    """
    down, up = keys.click(button)
    for events in (keys.pointer(x, y), down, up):
        await _sent(vm, events)
        await anyio.sleep(_BETWEEN_STROKES)


async def _sent(vm: VmFolder, events: Sequence[keys.Event]) -> None:
    async with asked(vm, "input", events=list(events)):
        pass
