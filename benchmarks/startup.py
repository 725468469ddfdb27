"""What starting `tart` costs, as multiples of `python -c pass`.

Run it on a quiet machine: .venv/bin/python benchmarks/startup.py
Each figure is the median of many runs, taken in turn, so that other load meets all of them alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 41
VMS = 200
ALLOWED = {"tart --help": 5.0, f"tart list, {VMS} VMs": 7.0}
CONFIG = """{
  "version" : 1, "os" : "linux", "arch" : "amd64", "cpuCountMin" : 4, "cpuCount" : 4,
  "memorySizeMin" : 4294967296, "memorySize" : 4294967296, "macAddress" : "02:00:00:00:00:01",
  "display" : { "width" : 1024, "height" : 768 }, "diskFormat" : "raw"
}"""


def make_vms(home: Path) -> None:
    """Fill a home with VMs whose disks are sparse."""
    for number in range(VMS):
        folder = home / "vms" / f"vm-{number:03}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(CONFIG)
        (folder / "nvram.bin").write_bytes(bytes(4096))
        with (folder / "disk.img").open("wb") as disk:
            disk.truncate(50 * 1000**3)


def seconds(words: list[str], home: Path) -> float:
    """How long one run of the program takes."""
    begun = time.perf_counter()
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True, env={**os.environ, "TART_HOME": str(home)})
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    tart = str(Path(sys.executable).with_name("tart"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "tart --help": [tart, "--help"],
        f"tart list, {VMS} VMs": [tart, "list"],
    }
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        make_vms(home)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, words in commands.items():
                times[name].append(seconds(words, home))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    base = medians["python -c pass"]
    for name, median in medians.items():
        allowed = f"  (at most {ALLOWED[name]:.0f})" if name in ALLOWED else ""
        print(f"{name:24} {median * 1000:6.1f} ms  {median / base:5.2f} x{allowed}")


if __name__ == "__main__":
    main()
