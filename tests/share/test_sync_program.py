"""What the guest's Python gets of several files."""

from __future__ import annotations

import ast
import sys
from collections import Counter

from tartlet.host.process import run
from tartlet.share.sync_program import sync_program


def test_no_file_takes_a_name_of_another() -> None:
    defined = (node for node in ast.parse(sync_program()).body if isinstance(node, (ast.FunctionDef, ast.ClassDef)))
    names = Counter(node.name for node in defined)
    assert {"Entry", "write_file", "Stage", "Copy", "main"} <= set(names)
    assert [name for name, count in names.items() if count > 1] == []


async def test_the_text_runs_without_this_package() -> None:
    assert await run(sys.executable, "-I", "-S", "-c", sync_program(), "/nowhere", "/nowhere", "tell") == "null\n[]\n"
