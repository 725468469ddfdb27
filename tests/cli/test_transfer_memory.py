"""What a push and a pull take of memory does not depend on the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from command import surroundings, tart
from tartlet.units import MIB

CHILD = Path(__file__).parent.parent / "weighed_tart.py"
MOST = 250 * MIB


def memory_of(home: Path, *words: str) -> int:
    """Bytes that `tart` with these words had at most, while four threads worked on noise."""
    told = home / "told"
    environment = surroundings(home, HOME=str(home))
    subprocess.run(
        [sys.executable, CHILD, told, *words], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=120
    )
    return int(told.read_text()) * 1024


async def test_a_push_and_a_pull_of_noise(registry_host: str, tmp_path: Path) -> None:
    home, name = tmp_path / "home", f"{registry_host}/tests/vm-{os.urandom(6).hex()}:1"
    assert tart(home, "create", "--linux", "vm", "--disk-size", "1").code == 0
    with (home / "vms" / "vm" / "disk.img").open("r+b") as disk:
        for at in range(8):
            disk.seek(at * 33 * MIB)  # no piece is like another, and most have a hole
            disk.write(os.urandom(30 * MIB))
    assert memory_of(home, "push", "--insecure", "vm", name) < MOST
    assert tart(home, "delete", "vm").code == 0
    assert memory_of(home, "pull", "--insecure", name) < MOST
