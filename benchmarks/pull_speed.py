"""Time a pull against `skopeo copy docker://… dir:…` of the same blobs, from a registry on this machine.

    .venv/bin/python benchmarks/pull_speed.py [--size GIB] [--piece MIB] [--folder DIR]

The disk is half random data, half text-like, and the pull decodes, verifies and writes it, which skopeo does not.
The budget is what two cores can do: two threads do the same work (hash, decode, hash, write) on blobs that are in
memory, while curl fetches them, four at a time, and throws them away. In a folder in memory (`--folder /dev/shm`)
nothing waits for a disk.
Then: the pull of a second version (100 MB changed), that of a sparse disk of 50 GB, and the peak memory.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import anyio

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from pushed_images import half_noise, pushed
from registries import real_registry
from tartlet.host.heap import tune_memory
from tartlet.host.paths import Home
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.layout import Piece, read_layout
from tartlet.image.format.manifest import read_manifest
from tartlet.image.format.piece_writer import PieceWriter
from tartlet.image.format.reference import ImageName, parse
from tartlet.image.pull.pull import pull
from tartlet.image.registry.registry import opened
from tartlet.units import GB, GIB, MIB

ROUNDS = 3


async def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--size", type=float, default=2, help="GiB of the disk")
    words.add_argument("--piece", type=int, default=32, help="MiB of a piece")
    words.add_argument("--folder", help="where to work")
    words.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.child:
        tune_memory()  # as the command does
        await child(Path(asked.child[0]), parse(asked.child[1]))
        return
    with tempfile.TemporaryDirectory(dir=asked.folder) as place:
        async with real_registry(Path(place)) as host:
            await measure(Path(place), host, int(asked.size * GIB), asked.piece * MIB)


async def measure(place: Path, host: str, size: int, piece: int) -> None:
    disk = place / "disk.img"
    half_noise(disk, size)
    async with opened(insecure=True, environment={"HOME": str(place)}) as registries:
        repository = registries.repository(host, "bench/vm")
        await pushed(repository, "one", disk, piece=piece)
        with disk.open("r+b") as file:
            for part in range(10):
                file.seek(part * size // 10)
                file.write(random.randbytes(10_000_000))
        await pushed(repository, "two", disk, piece=piece)
        disk.unlink()
        with disk.open("wb") as file:
            file.write(random.randbytes(100 * MIB))
            file.truncate(50 * GB)
        await pushed(repository, "sparse", disk, piece=piece)
    name = ImageName(host, "bench/vm", tag="one")
    ours: list[float] = []
    theirs: list[float] = []
    budgets: list[float] = []
    most = 0
    for number in range(ROUNDS):
        await drain()
        theirs.append(timed(skopeo_words(name, place / f"skopeo{number}")))
        await drain()
        budgets.append(budget(place / f"skopeo{number}", place / "budget.img", f"http://{host}/v2/bench/vm/blobs"))
        shutil.rmtree(place / f"skopeo{number}")
        await drain()
        took, memory = timed_and_weighed(our_words(place / f"home{number}", name))
        ours.append(took)
        most = max(most, memory)
        if number:
            shutil.rmtree(place / f"home{number}")
    best, best_theirs = min(ours), min(theirs)
    print(f"skopeo copy   {best_theirs:6.2f} s   {[round(one, 2) for one in theirs]}")
    print(f"pull          {best:6.2f} s   {[round(one, 2) for one in ours]}   {best / best_theirs:.2f} of it")
    reached = median(budget / one for budget, one in zip(budgets, ours, strict=True))
    print(f"budget        {min(budgets):6.2f} s   {[round(one, 2) for one in budgets]}   pull reaches {reached:.0%}")
    for tag in ("two", "sparse"):
        await drain()
        took, memory = timed_and_weighed(our_words(place / "home0", ImageName(host, "bench/vm", tag=tag)))
        most = max(most, memory)
        print(f"pull of {tag:<6}{took:6.2f} s")
    print(f"peak memory   {most:6} MiB")


async def drain() -> None:
    """Let what was written reach the medium, so that one round does not pay for another."""
    await anyio.to_thread.run_sync(os.sync)
    await anyio.sleep(0.5)


def skopeo_words(name: ImageName, target: Path) -> list[str]:
    return ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"dir:{target}"]


def our_words(home: Path, name: ImageName) -> list[str]:
    return [sys.executable, __file__, "--child", str(home), str(name)]


def timed(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(words, check=True)
    return time.perf_counter() - start


def timed_and_weighed(words: list[str]) -> tuple[float, int]:
    """Seconds, and the most memory it had, in MiB, as it tells itself: the system counts its parent's too."""
    start = time.perf_counter()
    told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.perf_counter() - start, int(told) // 1024


async def child(home: Path, name: ImageName) -> None:
    async with opened(insecure=True) as registries:
        repository = registries.repository(name.host, name.namespace)
        await pull(ImageCache(Home(home).prepared()), repository, name)
    print(most_memory())


def most_memory() -> str:
    """The most that this process had at any moment, in KiB."""
    status = Path("/proc/self/status").read_text()
    return next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))


def budget(blobs: Path, target: Path, url: str) -> float:
    """Seconds in which two threads make the disk from skopeo's folder while curl fetches the same blobs."""
    disk = read_layout(read_manifest((blobs / "manifest.json").read_bytes())).base
    for piece in disk.pieces:
        blob_of(blobs, piece).read_bytes()  # into the page cache
    with target.open("wb") as file:
        file.truncate(disk.size)
        wanted = [f'url = "{url}/{piece.blob.digest}"\noutput = "/dev/null"\n' for piece in disk.pieces]
        options = ["-Z", "--parallel-max", "4", "--no-progress-meter", "-f"]
        start = time.perf_counter()
        with subprocess.Popen(["curl", *options, "-K", "-"], stdin=subprocess.PIPE, text=True) as fetching:
            assert fetching.stdin
            fetching.stdin.write("".join(wanted))
            fetching.stdin.close()
            with ThreadPoolExecutor(2) as threads:
                list(threads.map(partial(write_piece, blobs, file.fileno()), disk.pieces))
            os.fsync(file.fileno())
        took = time.perf_counter() - start
        if fetching.returncode:
            raise RuntimeError("curl could not fetch the pieces")
    target.unlink()
    return took


def write_piece(blobs: Path, target: int, piece: Piece) -> None:
    writer = PieceWriter(piece, target, "budget")
    with blob_of(blobs, piece).open("rb") as blob:
        while part := blob.read(MIB):
            writer.feed(part)
    writer.finish()


def blob_of(blobs: Path, piece: Piece) -> Path:
    return blobs / piece.blob.digest.removeprefix("sha256:")


if __name__ == "__main__":
    anyio.run(main)
