"""When something was last used: the access time of its folder.

Reading a folder's entries sets its access time even under `relatime` (its change time is newer, always so after
`mark`), so whoever walks the home must look at single files with `stat` and not list VM folders.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tartlet.errors import FileTrouble


def mark(path: Path, when: float | None = None) -> None:
    """Set the access time of `path` to `when` (Unix seconds; now, in whole seconds, without it). Raises FileTrouble.

    The former access time becomes the modification time, as other programs on this layout do it.
    """
    try:
        before = os.stat(path).st_atime_ns
        at = int(time.time() if when is None else when) * 1_000_000_000
        os.utime(path, ns=(at, before))
    except OSError as exc:
        raise FileTrouble("cannot update the access date of", path, exc) from exc


def of(path: Path) -> float:
    """When `path` was last used, in Unix seconds. Raises OSError."""
    return os.stat(path).st_atime
