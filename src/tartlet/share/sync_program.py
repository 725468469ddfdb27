"""What the guest's Python is given with each call: its side of a synchronisation as one text."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

STATES = "/var/lib/tart-agent/sync"
"""Where a guest remembers what both sides last agreed on."""

_FILES = ("tree.py", "tree_lines.py", "stage.py", "guest_copy.py")
"""Each uses only those before it."""
_OURS = re.compile(r"^from (?:tartlet\.share\.\w+|__future__) import (?:\([^)]*\)|.*)\n", re.MULTILINE)


@cache
def sync_program() -> str:
    """The files behind one another, without what they import of each other: in one text the names are there."""
    texts = ((Path(__file__).parent / name).read_text(encoding="utf-8") for name in _FILES)
    return "from __future__ import annotations\n\n" + "\n\n".join(_OURS.sub("", text) for text in texts)
