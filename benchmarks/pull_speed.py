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

import anyio

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from pushed_images import half_noise, pushed
from registries import real_registry
from tartlet.image.format.layout import Piece, read_layout
from tartlet.image.format.manifest import read_manifest
from tartlet.image.format.piece_writer import PieceWriter
from tartlet.image.format.reference import ImageName
from tartlet.image.registry.registry import opened
from tartlet.units import GB, GIB, MIB
from transfers import Transfer, drain, rounded, share, touch_memory, transfer

ROUNDS = 5


async def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--size", type=float, default=2, help="GiB of the disk")
    words.add_argument("--piece", type=int, default=32, help="MiB of a piece")
    words.add_argument("--folder", help="where to work")
    asked = words.parse_args()
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
    theirs: list[float] = []
    budgets: list[float] = []
    ours: list[Transfer] = []
    blobs, home = place / "skopeo", place / "home"
    touch_memory()
    for _ in range(ROUNDS):
        shutil.rmtree(home, ignore_errors=True)
        await drain()
        theirs.append(timed(skopeo_words(name, blobs)))
        await drain()
        budgets.append(budget(blobs, place / "budget.img", f"http://{host}/v2/bench/vm/blobs"))
        shutil.rmtree(blobs)
        await drain()
        ours.append(transfer(home, "pull", str(name)))
    seconds, working = [one.seconds for one in ours], [one.working for one in ours]
    print(f"skopeo copy             {min(theirs):6.2f} s   {rounded(theirs)}")
    print(
        f"pull                    {min(seconds):6.2f} s   {rounded(seconds)}   {min(seconds) / min(theirs):.2f} of it"
    )
    print(f"its processor time      {min(one.cpu for one in ours):6.2f} s")
    reached = share(budgets, seconds)
    print(f"budget: curl fetches    {min(budgets):6.2f} s   {rounded(budgets)}   the pull reaches {reached}")
    print(f"... once it has begun   {min(working):6.2f} s   {rounded(working)}   {share(budgets, working)}")
    for tag, what in (("two", "100 MB changed"), ("sparse", "sparse disk of 50 GB")):
        await drain()
        ours.append(transfer(home, "pull", str(ImageName(host, "bench/vm", tag=tag))))
        print(f"{what:<20}    {ours[-1].seconds:6.2f} s   {ours[-1].told['received'] / MIB:.0f} MiB received")
    print(f"peak memory             {max(one.memory for one in ours):6} MiB")


def skopeo_words(name: ImageName, target: Path) -> list[str]:
    return ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"dir:{target}"]


def timed(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(words, check=True)
    return time.perf_counter() - start


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
