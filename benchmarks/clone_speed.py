"""How long `clone` needs for a 20 GB disk that holds 1 GiB, what it writes, and whether the tenth clone is slower.

Prints times, and ratios to a plain `cp --sparse=always --reflink=never` of the same disk. Give a folder on the file
system to be measured; 4 GiB are written there and removed.

    .venv/bin/python benchmarks/clone_speed.py /var/tmp
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tartlet.disk.chain import chain_of
from tartlet.disk.clone import clone_disk
from tartlet.units import GB, GIB, MIB

CLONES = 10
RUNS = 20


def main() -> None:
    """Measure in a folder of its own below the one given."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        measure(Path(name))


def measure(home: Path) -> None:
    """Clone in a row and in a circle, and compare with copying."""
    source = home / "source"
    source.mkdir()
    filled(source / "disk.img")
    started = time.perf_counter()
    subprocess.run(
        ["cp", "--sparse=always", "--reflink=never", source / "disk.img", home / "copy"],
        check=True,
        capture_output=True,
    )
    os.sync()
    copying = time.perf_counter() - started
    (home / "copy").unlink()
    print(f"cp --sparse=always: {copying:.3f} s, {GIB / MIB:.0f} MiB written")
    times = [timed(source, home / f"clone-{number}") for number in range(CLONES)]
    report("clones of one VM", times, copying)
    in_a_row = [timed(home / f"{'clone-0' if not n else f'row-{n - 1}'}", home / f"row-{n}") for n in range(CLONES)]
    report("clone of clone of clone", in_a_row, copying)
    print("clones of one VM that wrote 32 MiB before each:")
    for number in range(RUNS):
        guest_writes(source, number)
        seconds, written = timed(source, home / f"run-{number}")
        depth = len(chain_of(source).bases)
        print(f"  {number + 1:2}: {seconds * 1000:6.1f} ms, {written / MIB:6.2f} MiB written, {depth} bases")
    print(f"whole command with the interpreter's start: {as_process(source, home / 'process'):.3f} s (limit 0.3)")


def filled(disk: Path) -> None:
    """20 GB, with 1 GiB of noise in 64 places."""
    with disk.open("wb") as file:
        for place in range(64):
            file.seek(place * (20 * GB // 64) // MIB * MIB)
            file.write(os.urandom(GIB // 64))
        file.truncate(20 * GB)
        os.fsync(file.fileno())


def timed(source: Path, target: Path) -> tuple[float, int]:
    """Seconds for one clone, and bytes the file system gave away meanwhile."""
    target.mkdir()
    os.sync()
    free, started = room(target), time.perf_counter()
    clone_disk(source, target, running=False)
    seconds = time.perf_counter() - started
    os.sync()
    return seconds, free - room(target)


def guest_writes(folder: Path, number: int) -> None:
    """32 MiB in 8 places that differ from run to run."""
    places = [(place * 2048 + number * 64) * MIB for place in range(8)]
    words = [word for place in places for word in ("-c", f"write -P {number + 1} {place} 4M")]
    subprocess.run(["qemu-io", "-f", "qcow2", *words, folder / "disk.img"], check=True, stdout=subprocess.DEVNULL)


def as_process(source: Path, target: Path) -> float:
    """Seconds for a clone in a process of its own."""
    target.mkdir()
    script = (
        "import sys; from pathlib import Path; from tartlet.disk.clone import clone_disk; "
        "clone_disk(Path(sys.argv[1]), Path(sys.argv[2]), running=False)"
    )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", script, source, target], check=True)
    return time.perf_counter() - started


def room(folder: Path) -> int:
    """Free bytes of the file system."""
    return shutil.disk_usage(folder).free


def report(what: str, runs: list[tuple[float, int]], copying: float) -> None:
    """First, slowest and last of a series, and what they wrote."""
    seconds = [second for second, _ in runs]
    written = max(size for _, size in runs)
    print(
        f"{what}: first {seconds[0] * 1000:.1f} ms, slowest {max(seconds) * 1000:.1f} ms, "
        f"tenth/second {seconds[-1] / seconds[1]:.2f}; at most {written / MIB:.2f} MiB written each (limit 4); "
        f"{copying / max(seconds):.0f} x faster than cp"
    )


if __name__ == "__main__":
    main()
