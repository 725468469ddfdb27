"""What only root may do."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tartlet.errors import UserError

_SECURE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where sudo looks for programs."""


class RightsMissing(UserError):
    """Only root changes the system."""

    def __init__(self, verb: str) -> None:
        found = shutil.which("tart", path=_SECURE_PATH)
        tart = "tart" if found else Path(sys.executable).with_name("tart")
        super().__init__("only root may change this host's network", f"sudo {tart} network {verb}")
