"""Time a push against `lz4 -1 | sha256sum` and an upload by curl of the same disk, to a registry on this machine.

    .venv/bin/python benchmarks/push_speed.py [--size GIB] [--piece MIB] [--folder DIR]

The disk is half random data, half text-like. The push hashes it before and after coding, the pipeline only after. The
budget is the time in which two threads hash and code the disk and do nothing else; then the same with the processor
time that curl needs to send the result, and with that of the registry, which shares the two cores. Then: the second
push after 100 MB changed, under the same and under another name, that of a sparse disk of 50 GB, and the peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from pushed_images import half_noise
from registries import real_registry
from tartlet.host.heap import share_heap
from tartlet.host.paths import Home
from tartlet.image.layers import PieceEncoder, Region, cut
from tartlet.image.layout import read_layout
from tartlet.image.manifest import read_manifest
from tartlet.image.reference import parse
from tartlet.image.source import raw_disk
from tartlet.units import GB, GIB, MIB
from tartlet.vm import config_file
from tartlet.vm.model import VmConfig
from tartlet.vm.push import PushOptions, push
from tartlet.vm.store import VmStore

ROUNDS = 3
CHANGES, CHANGED = 10, 10_000_000


async def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--size", type=float, default=2, help="GiB of the disk")
    words.add_argument("--piece", type=int, default=0, help="MiB of a piece, if not the usual")
    words.add_argument("--folder", help="where to work")
    words.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.child:
        share_heap()  # as the command does
        await child(Path(asked.child[0]), asked.child[1], asked.piece * MIB)
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as place:
        async with real_registry(Path(place)) as host:
            await measure(Path(place), host, int(asked.size * GIB), asked.piece)


async def measure(place: Path, host: str, size: int, piece: int) -> None:
    disk = made_vm(place, "vm")
    half_noise(disk, size)
    theirs: list[float] = []
    sending: list[float] = []
    ours: list[float] = []
    budgets: list[float] = []
    registry: list[float] = []
    used_by_us: list[float] = []
    most = 0
    for number in range(ROUNDS):
        await drain()
        seconds, of_curl = pipeline(disk, place / "blob", f"http://{host}/v2/theirs{number}/vm")
        theirs.append(seconds)
        sending.append(of_curl)
        await drain()
        budgets.append(coded_by_two_threads(disk, (piece or 32) * MIB))
        (disk.parent / "last-push.json").unlink(missing_ok=True)
        await drain()
        used = registry_seconds()
        told = timed_push(place, f"{host}/ours{number}/vm:1", piece)
        registry.append(registry_seconds() - used)
        ours.append(told.seconds)
        used_by_us.append(told.cpu)
        most = max(most, told.memory)
    best, best_theirs, budget = min(ours), min(theirs), min(budgets)
    sent = budget + min(sending) / 2
    shared = sent + min(registry) / 2
    print(f"lz4 | sha256sum, curl  {best_theirs:6.2f} s   {rounded(theirs)}")
    print(f"push                   {best:6.2f} s   {rounded(ours)}   {best / best_theirs:.2f} of it")
    print(f"its processor time     {min(used_by_us):6.2f} s   {rounded(used_by_us)}")
    print(f"two threads only code  {budget:6.2f} s   {rounded(budgets)}   the push reaches {budget / best:.0%} of it")
    print(f"... and send           {sent:6.2f} s   curl's CPU: {rounded(sending)}")
    print(
        f"... and the registry   {shared:6.2f} s   its CPU: {rounded(registry)}   the push reaches {shared / best:.0%}"
    )
    change(disk, size)
    name = f"{host}/ours{ROUNDS - 1}/vm"
    for what, tag in (("another name", "2"), ("the same name", "1")):
        await drain()
        told = timed_push(place, f"{name}:{tag}", piece)
        touched = told.touched(size)
        plain = sum(told.sizes[number] for number in touched)
        print(f"100 MB changed, {what:<13} {told.seconds:5.2f} s   {told.cpu:.2f} s of processor time")
        print(f"   {told.sent / MIB:.0f} MiB sent")
        print(f"   {len(touched)} pieces of {plain / MIB:.0f} MiB touched, manifest of {told.manifest} bytes")
        most = max(most, told.memory)
    shutil.rmtree(disk.parent)
    sparse = made_vm(place, "vm")
    with sparse.open("wb") as file:
        file.write(random.randbytes(100 * MIB))
        file.truncate(50 * GB)
    told = timed_push(place, f"{host}/sparse/vm:1", piece)
    print(f"sparse disk of 50 GB   {told.seconds:6.2f} s   manifest {told.manifest} bytes")
    print(f"peak memory            {max(most, told.memory):6} MiB")


async def drain() -> None:
    """Let what was written reach the medium, so that one round does not pay for another."""
    await anyio.to_thread.run_sync(os.sync)
    await anyio.sleep(0.5)


def change(disk: Path, size: int) -> None:
    with disk.open("r+b") as file:
        for part in range(CHANGES):
            file.seek(part * size // CHANGES)
            file.write(random.randbytes(CHANGED))


def rounded(seconds: list[float]) -> list[float]:
    return [round(one, 2) for one in seconds]


def made_vm(place: Path, name: str) -> Path:
    """A VM in a home, without a disk; gives the place of that."""
    store = VmStore(Home(place / "home").prepared())
    with store.work_folder() as work:
        config_file.create(work / "config.json", VmConfig(arch="amd64"))
        (work / "nvram.bin").write_bytes(b"variables")
        (work / "disk.img").touch()
        return store.install(work, name).disk_path


def pipeline(disk: Path, blob: Path, repository: str) -> tuple[float, float]:
    """Seconds of coding into a file and hashing that, each by one thread, and of an upload in one request.

    Gives the processor time of the upload apart.
    """
    start = time.perf_counter()
    coding = f"lz4 -1 -q -c < {disk} | tee {blob} | sha256sum"
    digest = subprocess.run(coding, shell=True, check=True, capture_output=True, text=True).stdout.split()[0]
    curl = ["curl", "-sSf"]
    asked = subprocess.run(
        [*curl, "-X", "POST", "-D", "-", "-o", "/dev/null", f"{repository}/blobs/uploads/"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    location = next(line.split(None, 1)[1] for line in asked.splitlines() if line.lower().startswith("location:"))
    url = f"{location.strip()}&digest=sha256:{digest}"
    used = processor_time_of_children()
    subprocess.run([*curl, "-o", "/dev/null", "-H", "Expect:", "-T", blob, url], check=True)
    took = time.perf_counter() - start
    blob.unlink()
    return took, processor_time_of_children() - used


def processor_time_of_children() -> float:
    """Seconds, of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def coded_by_two_threads(disk: Path, piece: int) -> float:
    """Seconds of hashing, coding and hashing again, with the bytes in memory and the result thrown away."""
    with raw_disk(disk) as source, ThreadPoolExecutor(2) as threads:

        def code(region: Region) -> None:
            encoder = PieceEncoder(source, region)
            while encoder.step():
                pass

        start = time.perf_counter()
        list(threads.map(code, cut(source.size, piece)))
        return time.perf_counter() - start


def registry_seconds() -> float:
    """Processor time that the registry has used."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for number in children:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        if "docker-registry" in Path(f"/proc/{number}/cmdline").read_text():
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    raise RuntimeError("the registry is no child of this process")


class Told:
    """What a push came to."""

    def __init__(self, seconds: float, said: dict[str, Any]) -> None:
        self.seconds = seconds
        self.sent: int = said["sent"]
        self.manifest: int = said["manifest"]
        self.sizes: list[int] = said["sizes"]
        self.memory: int = said["memory"]
        self.cpu: float = said["cpu"]

    def touched(self, size: int) -> set[int]:
        """The pieces that the changes are in, by their places."""
        changes = [(part * size // CHANGES, part * size // CHANGES + CHANGED) for part in range(CHANGES)]
        starts = [sum(self.sizes[:place]) for place in range(len(self.sizes))]
        return {
            place
            for place, start in enumerate(starts)
            if any(first < start + self.sizes[place] and start < last for first, last in changes)
        }


def timed_push(place: Path, name: str, piece: int) -> Told:
    words = [sys.executable, __file__, "--piece", str(piece), "--child", str(place / "home"), name]
    start = time.perf_counter()
    said = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout
    return Told(time.perf_counter() - start, json.loads(said))


async def child(home: Path, name: str, piece: int) -> None:
    options = PushOptions(insecure=True, piece_size=piece) if piece else PushOptions(insecure=True)
    done = await push(VmStore(Home(home).prepared()), "vm", [parse(name)], options)
    sizes = [layer.size for layer in read_layout(read_manifest(done.manifest)).base.pieces]
    print(
        json.dumps(
            {
                "sent": done.sent,
                "manifest": len(done.manifest),
                "sizes": sizes,
                "memory": peak_memory(),
                "cpu": time.process_time(),
            }
        )
    )


def peak_memory() -> int:
    """MiB of this process at most. What the system tells its parent has the parent's own memory in it."""
    told = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(told.split()[1]) // 1024


if __name__ == "__main__":
    anyio.run(main)
