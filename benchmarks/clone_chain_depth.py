"""What a chain of layers costs its guest: opening the disk and reading through 1 to 33 files.

Every layer holds 16 MiB of a 1 GiB disk, scattered. Prints ratios to a disk on one base. The read is the worst case:
the data is in memory already, so nothing but looking through the layers takes time.

    .venv/bin/python benchmarks/clone_chain_depth.py /var/tmp
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tartlet.disk.qcow2 import write_empty
from tartlet.units import GIB, MIB

DEPTHS = (1, 2, 4, 8, 16, 32)
READS = 40_000


def main() -> None:
    """Build one chain up to the deepest and measure on the way."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        subprocess.run(["qemu-io", "-f", "raw", "-c", f"write -P 1 0 {GIB}", bottom(folder)], check=True, stdout=-3)
        first: tuple[float, float] | None = None
        below = "base.img", "raw"
        for depth in range(1, max(DEPTHS) + 1):
            layer = folder / f"layer-{depth}.img"
            write_empty(layer, GIB, below)
            scatter(layer, depth)
            below = layer.name, "qcow2"
            if depth in DEPTHS:
                opening, reading = opened(layer), read(layer)
                first = first or (opening, reading)
                print(
                    f"{depth:2} bases: open {opening * 1000:5.1f} ms ({opening / first[0]:.2f} x), "
                    f"{READS} reads of 4 KiB {reading:.2f} s ({reading / first[1]:.2f} x)"
                )


def bottom(folder: Path) -> Path:
    """A raw base of 1 GiB."""
    path = folder / "base.img"
    with path.open("wb") as file:
        file.truncate(GIB)
    return path


def scatter(layer: Path, depth: int) -> None:
    """16 MiB in 32 places that differ from layer to layer."""
    verbs = [f"write -P {depth} {(place * 32 + depth % 32) * MIB} 512k" for place in range(32)]
    words = [word for verb in verbs for word in ("-c", verb)]
    subprocess.run(["qemu-io", "-f", "qcow2", *words, layer], check=True, stdout=subprocess.DEVNULL)


def opened(layer: Path) -> float:
    """Seconds to open and close it: the best of five."""
    return min(seconds(["qemu-io", "-r", "-f", "qcow2", "-c", "quit", str(layer)]) for _ in range(5))


def read(layer: Path) -> float:
    """Seconds for the reads, each 100 KiB further: the best of three."""
    words = ["qemu-img", "bench", "-f", "qcow2", "-c", str(READS), "-d", "16", "-s", "4096", "-S", "102400", str(layer)]
    return min(float(told(words)) for _ in range(3))


def told(words: list[str]) -> str:
    """The time that qemu-img bench prints."""
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found = re.search(r"completed in ([0-9.]+) seconds", output)
    assert found, output
    return found[1]


def seconds(words: list[str]) -> float:
    """How long a program takes."""
    started = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
