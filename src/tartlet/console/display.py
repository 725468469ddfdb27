"""Whether a window opens, and which of QEMU's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

NO_WINDOW = ("-display", "none")
_KINDS = ("gtk", "sdl")


@dataclass(frozen=True, slots=True)
class Window:
    """The choice, and why."""

    words: tuple[str, ...]
    reason: str
    """One line for the log, and for the user when there is no window where one was expected."""

    @property
    def shown(self) -> bool:
        """Whether there is a window at all."""
        return self.words != NO_WINDOW

    @property
    def shares_clipboard(self) -> bool:
        """Whether QEMU can join this window's clipboard with the guest's: SDL's it cannot."""
        return self.words[1].partition(",")[0] in ("gtk", "cocoa")


def choose(
    environment: Mapping[str, str],
    offered: AbstractSet[str],
    *,
    refit: bool = False,
    closable: bool = True,
    capture_system_keys: bool = False,
    platform: str = sys.platform,
) -> Window:
    """The window for this session; `offered` is what the QEMU at hand was built with (`qemu.displays`). Pure.

    Every window tells the guest its size, and scales the picture of a guest that does not follow. With `refit` it
    never scales: the guest is expected to follow (GTK, QEMU 7.1). A window that is not `closable` ignores its
    close button:
    QEMU would end at once, which a VM that is to be suspended must not.
    """
    if platform == "darwin":
        if "cocoa" not in offered:
            return Window(NO_WINDOW, "no window: this QEMU was built without Cocoa")
        return Window(("-display", "cocoa,full-grab=on" if capture_system_keys else "cocoa"), "window: Cocoa")
    if not (environment.get("WAYLAND_DISPLAY") or environment.get("DISPLAY")):
        return Window(NO_WINDOW, "no window: neither WAYLAND_DISPLAY nor DISPLAY is set")
    kind = next((kind for kind in _KINDS if kind in offered), None)
    if kind is None:
        return Window(NO_WINDOW, "no window: this QEMU was built without GTK and SDL (apt install qemu-system-gui)")
    options = [kind] if closable else [kind, "window-close=off"]
    if kind == "gtk":
        if refit:
            options.append("zoom-to-fit=off")
        if capture_system_keys:
            options.append("grab-on-hover=on")
    return Window(("-display", ",".join(options)), f"window: {kind.upper()}")
