"""Time a push against `lz4 -1 | sha256sum` and an upload by curl of the same disk, to a registry on this machine.

    .venv/bin/python benchmarks/push_speed.py [--size GIB] [--folder DIR]

The disk is half random data, half text-like. The push hashes it before and after coding, the pipeline only after. The
budget is what two cores can do: two threads hash and code the disk with nothing else to do, while curl sends to the
same registry, four at a time, the pieces that they will come to, from files made before. In a folder in memory
(`--folder /dev/shm`) nothing waits for a disk. Then: the second push after 100 MB changed, under the same and under
another name, that of a sparse disk of 50 GB, and the peak memory.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from pushed_images import half_noise
from registries import real_registry
from tartlet.host.paths import Home
from tartlet.image.format.layers import PieceEncoder, cut
from tartlet.image.format.layout import read_layout
from tartlet.image.format.manifest import MANIFEST, read_manifest
from tartlet.image.format.source import raw_disk
from tartlet.image.push.plan import PIECE_SIZE
from tartlet.units import GB, GIB, MIB
from tartlet.vm.stored import config_file
from tartlet.vm.stored.model import VmConfig
from tartlet.vm.stored.store import VmStore
from transfers import Transfer, drain, rounded, share, touch_memory, transfer

ROUNDS = 5
CHANGES, CHANGED = 10, 10_000_000


async def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--size", type=float, default=2, help="GiB of the disk")
    words.add_argument("--folder", help="where to work")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as place:
        async with real_registry(Path(place)) as host:
            await measure(Path(place), host, int(asked.size * GIB))


async def measure(place: Path, host: str, size: int) -> None:
    disk = made_vm(place)
    half_noise(disk, size)
    blobs = coded(disk, place / "coded")
    theirs: list[float] = []
    alone: list[float] = []
    budgets: list[float] = []
    ours: list[Push] = []
    touch_memory()
    for number in range(ROUNDS):
        await drain()
        theirs.append(pipeline(disk, place / "blob", f"http://{host}/v2/theirs{number}/vm"))
        await drain()
        alone.append(coded_by_two_threads(disk))
        await drain()
        budgets.append(budget(disk, blobs, f"http://{host}/v2/budget{number}/vm"))
        (disk.parent / "last-push.json").unlink(missing_ok=True)
        await drain()
        ours.append(timed_push(place, f"{host}/ours{number}/vm:1"))
    seconds = [told.transfer.seconds for told in ours]
    best = min(seconds)
    print(f"lz4 | sha256sum, curl    {min(theirs):6.2f} s   {rounded(theirs)}")
    print(f"push                     {best:6.2f} s   {rounded(seconds)}   {best / min(theirs):.2f} of it")
    print(f"its processor time       {min(told.transfer.cpu for told in ours):6.2f} s")
    print(f"two threads code only    {min(alone):6.2f} s   {rounded(alone)}")
    working = [told.transfer.working for told in ours]
    reached = share(budgets, seconds)
    print(f"budget: curl sends too   {min(budgets):6.2f} s   {rounded(budgets)}   the push reaches {reached}")
    print(f"... once it has begun    {min(working):6.2f} s   {rounded(working)}   {share(budgets, working)}")
    change(disk, size)
    name = f"{host}/ours{ROUNDS - 1}/vm"
    for what, tag in (("another name", "2"), ("the same name", "1")):
        await drain()
        told = timed_push(place, f"{name}:{tag}")
        ours.append(told)
        touched = told.touched(size)
        plain = sum(told.sizes[number] for number in touched)
        took = told.transfer
        print(f"100 MB changed, {what:<13} {took.seconds:5.2f} s   {took.cpu:.2f} s of processor time")
        print(f"   {took.told['sent'] / MIB:.0f} MiB sent")
        print(f"   {len(touched)} pieces of {plain / MIB:.0f} MiB touched, manifest of {told.manifest} bytes")
    shutil.rmtree(disk.parent)
    sparse = made_vm(place)
    with sparse.open("wb") as file:
        file.write(random.randbytes(100 * MIB))
        file.truncate(50 * GB)
    told = timed_push(place, f"{host}/sparse/vm:1")
    print(f"sparse disk of 50 GB     {told.transfer.seconds:6.2f} s   manifest {told.manifest} bytes")
    print(f"peak memory              {max(one.transfer.memory for one in [*ours, told]):6} MiB")


def change(disk: Path, size: int) -> None:
    with disk.open("r+b") as file:
        for part in range(CHANGES):
            file.seek(part * size // CHANGES)
            file.write(random.randbytes(CHANGED))


def made_vm(place: Path) -> Path:
    """A VM in a home, without a disk; gives the place of that."""
    store = VmStore(Home(place / "home").prepared())
    with store.work_folder() as work:
        config_file.create(work / "config.json", VmConfig(arch="amd64"))
        (work / "nvram.bin").write_bytes(b"variables")
        (work / "disk.img").touch()
        return store.install(work, "vm").disk_path


def pipeline(disk: Path, blob: Path, repository: str) -> float:
    """Seconds of coding into a file and hashing that, each by one thread, and of an upload in one request."""
    start = time.perf_counter()
    coding = f"lz4 -1 -q -c < {disk} | tee {blob} | sha256sum"
    digest = subprocess.run(coding, shell=True, check=True, capture_output=True, text=True).stdout.split()[0]
    url = upload_of(repository, f"sha256:{digest}")
    subprocess.run(["curl", "-sSf", "-o", "/dev/null", "-H", "Expect:", "-T", blob, url], check=True)
    took = time.perf_counter() - start
    blob.unlink()
    return took


def upload_of(repository: str, digest: str) -> str:
    """The URL at which the registry takes this blob in one request."""
    asked = urllib.request.Request(f"{repository}/blobs/uploads/", method="POST", data=b"")
    with urllib.request.urlopen(asked) as answer:
        return f"{answer.headers['Location']}&digest={digest}"


def coded(disk: Path, folder: Path) -> list[Path]:
    """The layers of a disk as files that are called as their digests."""
    folder.mkdir()
    return [coded_piece(disk, folder, number) for number in range(len(cut(disk.stat().st_size, PIECE_SIZE)))]


def coded_piece(disk: Path, folder: Path, number: int) -> Path:
    with raw_disk(disk) as source, (folder / "piece").open("wb") as file:
        encoder = PieceEncoder(source, cut(source.size, PIECE_SIZE)[number])
        while part := encoder.step():
            file.write(part)
    return (folder / "piece").rename(folder / encoder.descriptor.digest)


def coded_by_two_threads(disk: Path) -> float:
    """Seconds of hashing, coding and hashing again, with the bytes in memory and the result thrown away."""
    start = time.perf_counter()
    with raw_disk(disk) as source, ThreadPoolExecutor(2) as threads:

        def code(number: int) -> None:
            encoder = PieceEncoder(source, regions[number])
            while encoder.step():
                pass

        regions = cut(source.size, PIECE_SIZE)
        list(threads.map(code, range(len(regions))))
    return time.perf_counter() - start


def budget(disk: Path, blobs: list[Path], repository: str) -> float:
    """Seconds until two threads have coded the disk and curl has sent what was coded before, side by side."""
    targets = [f'upload-file = "{blob}"\nurl = "{upload_of(repository, blob.name)}"' for blob in blobs]
    options = 'silent\nshow-error\nfail\nheader = "Expect:"\noutput = "/dev/null"\n'
    config = "parallel\nparallel-max = 4\nno-progress-meter\n" + "next\n".join(
        f"{options}{target}\n" for target in targets
    )
    start = time.perf_counter()
    with subprocess.Popen(["curl", "-K", "-"], stdin=subprocess.PIPE, text=True) as sending:
        assert sending.stdin
        sending.stdin.write(config)
        sending.stdin.close()
        coded_by_two_threads(disk)
    if sending.returncode:
        raise RuntimeError("curl could not send the pieces")
    return time.perf_counter() - start


@dataclass
class Push:
    """A push, and what it made."""

    transfer: Transfer
    manifest: int
    """Bytes."""
    sizes: list[int]
    """Of the pieces, in bytes."""

    def touched(self, size: int) -> set[int]:
        """The pieces that the changes are in, by their places."""
        changes = [(part * size // CHANGES, part * size // CHANGES + CHANGED) for part in range(CHANGES)]
        starts = [sum(self.sizes[:place]) for place in range(len(self.sizes))]
        return {
            place
            for place, start in enumerate(starts)
            if any(first < start + self.sizes[place] and start < last for first, last in changes)
        }


def timed_push(place: Path, name: str) -> Push:
    done = transfer(place / "home", "push", "vm", name)
    manifest = manifest_of(name)
    return Push(done, len(manifest), [layer.size for layer in read_layout(read_manifest(manifest)).base.pieces])


def manifest_of(name: str) -> bytes:
    repository, _, tag = name.rpartition(":")
    host, _, path = repository.partition("/")
    asked = urllib.request.Request(f"http://{host}/v2/{path}/manifests/{tag}", headers={"Accept": MANIFEST})
    with urllib.request.urlopen(asked) as answer:
        return bytes(answer.read())


if __name__ == "__main__":
    anyio.run(main)
