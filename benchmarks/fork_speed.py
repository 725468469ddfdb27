"""What a fork costs beside booting the same guest: until the first command has run inside, and in memory.

Run it on a quiet machine with the packages of the tests: .venv/bin/python benchmarks/fork_speed.py
The guests get a network that leads nowhere (a namespace of their own).
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROUNDS = 3
FORKS = 10
MOST_TIME = 0.2
"""Of a boot."""
MOST_MEMORY = 3.0
"""Of one VM, for ten forks."""
TART = str(Path(sys.executable).with_name("tart"))


def main() -> None:
    """Measure and print."""
    if "--inside" not in sys.argv:
        words = ["unshare", "--map-root-user", "--net", sys.executable, __file__, "--inside"]
        sys.exit(subprocess.run(words, check=False).returncode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from machines import mini_guest

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TART_HOME"] = scratch
        tart("create", "--linux", "--disk-size", "1", "guest")
        tart("set", "guest", "--cpu", "1", "--memory", "256", "--disk", str(mini_guest()))
        try:
            measure(Path(scratch) / "vms")
        finally:
            for vm in (Path(scratch) / "vms").iterdir():
                subprocess.run([TART, "stop", vm.name], check=False, capture_output=True)


def measure(vms: Path) -> None:
    """Boots, forks one at a time, then ten at once."""
    boots: list[float] = []
    for number in range(ROUNDS):
        boots.append(timed(lambda: first_command_after("run", "guest", "--no-graphics", "--detach", "--wait-ready")))
        if number < ROUNDS - 1:
            tart("stop", "guest")
    single: list[float] = []
    for number in range(ROUNDS):
        name = f"single-{number}"
        single.append(timed(partial(first_command_after, "fork", "guest", name, in_=name)))
        tart("stop", name)
    names = [f"fork-{number}" for number in range(FORKS)]
    together = timed(lambda: tart("fork", "guest", *names))
    alone, all_of_them = pss(vms / "guest"), sum(pss(vms / name) for name in names)
    boot, fork = statistics.median(boots), statistics.median(single)
    print(f"boot to first command     {boot:6.2f} s   {[round(taken, 2) for taken in boots]}")
    print(f"fork to first command     {fork:6.2f} s   {[round(taken, 2) for taken in single]}")
    print(f"                          {fork / boot:6.2f} x (at most {MOST_TIME})")
    print(f"{FORKS} forks at once          {together:6.2f} s   {together / FORKS:.2f} s each")
    print(f"memory of the source      {alone:6.1f} MiB")
    print(
        f"memory of {FORKS} idle forks   {all_of_them:6.1f} MiB   {all_of_them / alone:.2f} x (at most {MOST_MEMORY})"
    )


def first_command_after(*words: str, in_: str = "guest") -> None:
    """Start a VM and run a command in it."""
    tart(*words)
    tart("exec", in_, "true")


def timed(work: Callable[[], None]) -> float:
    """Seconds it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def tart(*words: str) -> None:
    """Run the command to its end."""
    subprocess.run([TART, *words], check=True, stdout=subprocess.DEVNULL)


def pss(folder: Path) -> float:
    """MiB that the QEMU of a running VM takes, with its share of what it shares."""
    supervisor = int(re.findall(r'"pid": (\d+)', (folder / "last-run.json").read_text())[0])
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    for child in children:
        if b"qemu-system" in Path(f"/proc/{child}/cmdline").read_bytes():
            found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{child}/smaps_rollup").read_text(), re.MULTILINE)
            return int(found[1]) / 1024 if found else 0.0
    sys.exit(f"{folder.name} has no QEMU")


if __name__ == "__main__":
    main()
