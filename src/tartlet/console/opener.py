"""Hands a URL to the program the desktop opens such URLs with."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from subprocess import DEVNULL

import anyio

from tartlet.errors import ToolFailed, ToolMissing, UserError

_SECONDS = 20


class OpenerSilent(UserError):
    """The desktop's opener did not come back."""

    def __init__(self, opener: str) -> None:
        super().__init__(f"{opener} did not answer within {_SECONDS} seconds", "open the address by hand")


def has_desktop(environment: Mapping[str, str], *, platform: str = sys.platform) -> bool:
    """Whether there is a desktop that could open something."""
    return platform == "darwin" or bool(environment.get("WAYLAND_DISPLAY") or environment.get("DISPLAY"))


async def open_url(url: str, *, platform: str = sys.platform) -> None:
    """Open `url`; the program that shows it outlives us. Raises ToolMissing, ToolFailed, OpenerSilent."""
    opener = "open" if platform == "darwin" else "xdg-open"
    if shutil.which(opener) is None:
        raise ToolMissing(opener, "install xdg-utils, or open the address by hand")
    # Some openers become the viewer instead of starting it, so on Linux it gets a session of its own.
    words = [opener, url] if platform == "darwin" else ["setsid", "--fork", opener, url]
    try:
        with anyio.fail_after(_SECONDS):
            # Its output goes nowhere: a pipe of ours would be held open, and waited for, as long as the viewer runs.
            done = await anyio.run_process(words, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, check=False)
    except TimeoutError as exc:
        raise OpenerSilent(opener) from exc
    if done.returncode:
        raise ToolFailed([opener], done.returncode, "")
