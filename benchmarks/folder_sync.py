"""A folder of many small files into a guest and out of it: `--dir=…:sync` beside `cp -r` through virtiofs.

The VM has to be stopped and have Tartlet's agent. Prints seconds and ratios; what the two do is measured in one guest
each, one after the other, so run it on a machine that does nothing else.

    .venv/bin/python benchmarks/folder_sync.py debian [FILES]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

FILES = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
IN_ONE_FOLDER = 100
LARGEST = 8 << 10
TART = Path(sys.executable).with_name("tart")


def tart(*words: str) -> float:
    """Run a command to its end; the seconds it took."""
    begun = time.monotonic()
    subprocess.run([TART, *words], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


@contextmanager
def running(name: str, share: str) -> Generator[None]:
    """The VM with one `--dir`."""
    tart("run", name, "--no-graphics", "--detach", "--wait-ready", f"--dir={share}")
    try:
        yield
    finally:
        tart("stop", name, "--timeout", "600")


def fill(folder: Path) -> None:
    """Files of all sizes up to LARGEST."""
    for number in range(FILES):
        place = folder / str(number // IN_ONE_FOLDER)
        place.mkdir(exist_ok=True)
        (place / str(number)).write_bytes(os.urandom(number * 997 % LARGEST))


def served(name: str, folder: Path) -> tuple[float, float, float]:
    """In, out, and a look at all of them: through virtiofs."""
    with running(name, f"folder:{folder}"):
        came = tart("exec", name, "cp", "-r", "/mnt/shared/folder", "/var/tmp/copy")
        # virtiofsd holds a descriptor for each file that the guest knows
        tart("exec", "--user", "root", name, "sh", "-c", "sync; echo 2 > /proc/sys/vm/drop_caches")
        went = tart("exec", name, "cp", "-r", "/var/tmp/copy", "/mnt/shared/folder/back")
        looked = tart("exec", name, "sh", "-c", "find /mnt/shared/folder -type f -size +1k | wc -l")
        tart("exec", name, "rm", "-r", "/var/tmp/copy")
    return came, went, looked


def copied(name: str, folder: Path) -> tuple[float, float, float]:
    """The same by synchronising; the files appear while the VM runs."""
    with running(name, f"folder:{folder}:sync"):
        fill(folder)
        came = tart("sync", name)
        tart(
            "exec",
            name,
            "sh",
            "-c",
            "cp -r /mnt/shared/folder /var/tmp/copy && mv /var/tmp/copy /mnt/shared/folder/back",
        )
        went = tart("sync", name)
        looked = tart("exec", name, "sh", "-c", "find /mnt/shared/folder -type f -size +1k | wc -l")
        quiet = tart("sync", name)
    print(f"with nothing to do: {quiet:.1f} s for {2 * FILES} files")
    return came, went, looked


def main() -> None:
    """Measure both, and print."""
    name = sys.argv[1]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        fill(Path(one))
        rows = zip(("in", "out", "find"), served(name, Path(one)), copied(name, Path(other)), strict=True)
        for what, by_virtiofs, by_copy in rows:
            print(f"{what}: virtiofs {by_virtiofs:.1f} s, sync {by_copy:.1f} s, ratio {by_virtiofs / by_copy:.2f}")


main()
