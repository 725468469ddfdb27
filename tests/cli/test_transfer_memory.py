"""What a push and a pull take of memory does not depend on the disk.

One heap for all threads keeps it small. Without that the peak is higher on some runs and not on others, so whether
there is one is seen in the C library's own books.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from command import surroundings, tart
from tartlet.units import MIB

CHILD = Path(__file__).parent.parent / "weighed_tart.py"
MOST = 250 * MIB
"""On noise a push takes 212 MiB and a pull 120."""


@dataclass(frozen=True)
class Weight:
    """As `weighed_tart` tells it."""

    most: int
    heaps: int


def weight_of(home: Path, *words: str) -> Weight:
    """How `tart` with these words used memory, while four threads worked on noise."""
    told = home / "told"
    environment = surroundings(home, HOME=str(home))
    subprocess.run(
        [sys.executable, CHILD, told, *words], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=120
    )
    return Weight(**json.loads(told.read_text()))


async def test_a_push_and_a_pull_of_noise(registry_host: str, tmp_path: Path) -> None:
    home, name = tmp_path / "home", f"{registry_host}/tests/vm-{os.urandom(6).hex()}:1"
    assert tart(home, "create", "--linux", "vm", "--disk-size", "1").code == 0
    with (home / "vms" / "vm" / "disk.img").open("r+b") as disk:
        for _ in range(12 * 33):  # pieces without a hole, none like another, which do not shrink
            disk.write(os.urandom(MIB))
    push = weight_of(home, "push", "--insecure", "vm", name)
    assert tart(home, "delete", "vm").code == 0
    pull = weight_of(home, "pull", "--insecure", name)
    assert (push.most < MOST, pull.most < MOST) == (True, True), (push, pull)
    assert (push.heaps, pull.heaps) == (1, 1), (push, pull)
