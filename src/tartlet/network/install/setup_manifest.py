"""What `tart network setup` has made, written down so that `remove` takes away just that.

A JSON object, `{"made": ["group tart", …]}`: the keys of steps in the order in which they were done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tartlet.errors import FileTrouble, UserError
from tartlet.host.files import removed, write_whole
from tartlet.host.paths import made
from tartlet.host.trouble import trouble_writing
from tartlet.network.install.setup_steps import within

MANIFEST = Path("/etc/tartlet/setup.json")


def made_before(root: Path) -> list[str]:
    """The keys of the steps that setup has done. Raises FileTrouble, UserError."""
    path = within(root, MANIFEST)
    try:
        told: Any = json.loads(path.read_text())
        return [str(key) for key in told["made"]]
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise FileTrouble("cannot read", path, exc) from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise UserError(f"{path} does not say what was made", "restore it, or remove things by hand") from exc


def note_made(root: Path, keys: Sequence[str]) -> None:
    """Let these be all steps that were done; without any the file goes, and its folder if it is empty then.

    Raises FileTrouble.
    """
    path = within(root, MANIFEST)
    try:
        if keys:
            made(path.parent)
            write_whole(path, json.dumps({"made": list(dict.fromkeys(keys))}, indent=2).encode() + b"\n")
            return
        removed(path)
        if not os.listdir(path.parent):
            path.parent.rmdir()
    except OSError as exc:
        raise trouble_writing(path, exc) from exc
