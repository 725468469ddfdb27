"""Calling `tart` as its users do, and looking at what a call left on the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import anyio

TART = Path(sys.executable).with_name("tart")


@dataclass(frozen=True, slots=True)
class Called:
    """How a call of the command ended."""

    code: int
    out: str
    err: str


def tart(home: Path, *words: str, timeout: float = 60, **environment: str) -> Called:
    """Run the installed command with `home` as its home."""
    done = subprocess.run(
        [TART, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout,
        check=False,
        env=surroundings(home, **environment),
    )
    return Called(done.returncode, done.stdout, done.stderr)


def surroundings(home: Path, **environment: str) -> dict[str, str]:
    """The environment of a call: nothing of the user's own settings for this program."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TART_", "_TART_"))}
    return kept | {"TART_HOME": str(home), "COLUMNS": "80", **environment}


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every entry below `folder`: mode, size and the first bytes."""
    found: dict[str, tuple[int, int, bytes]] = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        start = b""
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                start = file.read(4096)
        found[str(path.relative_to(folder))] = stat.st_mode, stat.st_size if path.is_file() else 0, start
    return found


async def tart_beside(home: Path, *words: str, **environment: str) -> Called:
    """The same while a server of the test goes on working in this process."""
    done = await anyio.run_process(
        [str(TART), *words], stdin=subprocess.DEVNULL, check=False, env=surroundings(home, **environment)
    )
    return Called(done.returncode, done.stdout.decode(errors="surrogateescape"), done.stderr.decode())
