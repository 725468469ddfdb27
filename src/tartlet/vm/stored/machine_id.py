"""What tells one VM's machine from those of its copies: a random number in its folder that no copy gets."""

from __future__ import annotations

import uuid
from pathlib import Path

from tartlet.host.files import write_whole

FILE_NAME = "machine"


def machine_id(folder: Path) -> str:
    """The number of the VM in this folder, made when it has none yet. Raises OSError."""
    try:
        return str(uuid.UUID((folder / FILE_NAME).read_text().strip()))
    except (FileNotFoundError, ValueError):  # ours alone, so what cannot be read is made anew
        fresh = str(uuid.uuid4())
        write_whole(folder / FILE_NAME, f"{fresh}\n".encode())
        return fresh
