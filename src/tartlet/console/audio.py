"""How the guest's sound reaches the host's ears, if at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

SILENT = "none"


def choose(environment: Mapping[str, str], offered: AbstractSet[str], *, platform: str = sys.platform) -> str:
    """QEMU's audio driver for this session; `none` where nobody would hear it.

    `offered` is what the QEMU at hand was built with (`qemu.audio_drivers`). Looks for the sockets of the session's
    sound servers.
    """
    if platform == "darwin":
        return "coreaudio" if "coreaudio" in offered else SILENT
    session = environment.get("XDG_RUNTIME_DIR", "")
    if "pipewire" in offered and session and os.path.exists(f"{session}/pipewire-0"):
        return "pipewire"
    pulse = environment.get("PULSE_SERVER") or (session and os.path.exists(f"{session}/pulse/native"))
    return "pa" if "pa" in offered and pulse else SILENT
