"""Small file systems of their own for tests, in a file by a loop device. They need root."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MADE_BY = {"ext4": ("mkfs.ext4", "-q", "-m0"), "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1")}


@contextmanager
def file_system(folder: Path, size: int, kind: str = "ext4") -> Generator[Path]:
    """A mounted file system of `size` bytes (XFS takes 300 MiB at least). Skips where its tools are missing."""
    image, point = folder / f"{kind}.img", folder / kind
    words = _MADE_BY[kind]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([*words, image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)
