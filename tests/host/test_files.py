"""Writing all that is to be written, or failing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("call", ["write_at(descriptor, b'x' * 100, 0)", "write_all(descriptor, b'x' * 100)"])
def test_what_was_written_in_part_has_failed(tmp_path: Path, call: str) -> None:
    """A file that may have 60 bytes takes as many of 100, and the kernel says so only at the next write."""
    program = (
        "import os, resource, sys; from tartlet.host.files import write_all, write_at\n"
        "descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))\n"
        f"try:\n    {call}\nexcept OSError as exc:\n    print(exc.strerror, os.stat(descriptor).st_size)\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "file")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "File too large 60\n"
