"""How fast a guest reads a file of a shared folder, against the same bytes on a plain disk of the same guest.

Run it on a quiet machine with the packages of the tests: .venv/bin/python benchmarks/shared_folder_read.py
The guest forgets what it has read before each round. The guest has no network.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import tempfile
from pathlib import Path

import anyio

ROUNDS = 5
SIZE = 128 << 20
FILES = 500
"""Small files that are read one after the other."""

PATHS = ("/dev/vdb", "/mnt/shared/big", "/mnt/shared/many/*")
FORGET = "sync; echo 3 > /proc/sys/vm/drop_caches"
MOUNT = "mkdir -p /mnt/shared; mount -t virtiofs com.apple.virtio-fs.automount /mnt/shared 2>/dev/null"


async def main() -> None:
    """Measure and print."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from booted import booted, in_guest
    from tartlet.hypervisor.block_nodes import attached
    from tartlet.hypervisor.disk_options import DiskArgument, DiskOptions
    from tartlet.share.arguments import grouped
    from tartlet.share.serving import serving

    with tempfile.TemporaryDirectory() as scratch:
        folder = made_folder(Path(scratch))
        for name in ("tmp", "vm"):
            os.mkdir(f"{scratch}/{name}")
        plain = DiskArgument(str(folder / "big"), DiskOptions(read_only=True))
        with attached(plain, index=1, kind="raw") as disk:
            async with (
                serving(grouped([f"{folder}:ro"]), Path(scratch, "tmp")) as folders,
                booted(Path(scratch, "vm"), more=(disk, *folders.devices)) as guest,
            ):
                await guest.monitor.cont()
                await in_guest(guest.agent, MOUNT)

                async def seconds(script: str) -> float:
                    told = await in_guest(guest.agent, f"{FORGET}; time sh -c '{script}' 2>&1")
                    ((minutes, rest),) = re.findall(r"real\s+(\d+)m ([\d.]+)s", told)
                    return int(minutes) * 60 + float(rest)

                taken: dict[str, list[float]] = {path: [] for path in PATHS}
                for _ in range(ROUNDS):
                    for path in PATHS:
                        taken[path].append(await seconds(f"cat {path} > /dev/null"))
                print_rates(*(taken[path] for path in PATHS))


def made_folder(scratch: Path) -> Path:
    """A folder with one big file and many small ones."""
    folder = scratch / "shared"
    (folder / "many").mkdir(parents=True)
    (folder / "big").write_bytes(os.urandom(SIZE))
    for number in range(FILES):
        (folder / "many" / str(number)).write_bytes(os.urandom(4096))
    return folder


def print_rates(disk: list[float], shared: list[float], many: list[float]) -> None:
    """Medians, and the shared folder's share of the disk's speed."""
    rates = [SIZE / 2**20 / statistics.median(taken) for taken in (disk, shared)]
    print(f"plain disk      {rates[0]:7.0f} MiB/s   {disk}")
    print(f"shared folder   {rates[1]:7.0f} MiB/s   {shared}   {rates[1] / rates[0]:.2f} x")
    print(f"small files     {FILES / statistics.median(many):7.0f} a second   {many}")


if __name__ == "__main__":
    anyio.run(main)
