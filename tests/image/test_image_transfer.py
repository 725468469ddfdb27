from __future__ import annotations

import os
import random
import resource
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from registries import Fault, Front
from tartlet.host.trouble import NoSpace
from tartlet.image.format.layers import Region, cut
from tartlet.image.format.layout import Layout, flat_layout
from tartlet.image.format.manifest import (
    NVRAM,
    OCI_CONFIG,
    VM_CONFIG,
    Descriptor,
    blob_descriptor,
    digest_of,
    flat_manifest,
    oci_config,
    read_manifest,
)
from tartlet.image.format.piece_writer import CorruptBlob
from tartlet.image.format.source import raw_disk
from tartlet.image.pull.fetch import fetch_piece
from tartlet.image.push.encode import encode_piece
from tartlet.image.push.spool import FileSpool, MemorySpool
from tartlet.image.registry.bodies import from_bytes
from tartlet.image.registry.registry import Repository, opened
from tartlet.image.registry.upload import push_blob
from tartlet.units import MIB

BLOBS = r"/blobs/sha256"
NOISE = random.Random(5).randbytes(6 * MIB)
SIZE = 40 * MIB + 12_345

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with some data, many holes and a piece of nothing but zeros."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
        for at in (0, 9 * MIB + 4096, 30 * MIB):
            file.seek(at)
            file.write(NOISE)
        file.seek(SIZE - 5)
        file.write(b"final")
    return path


@contextmanager
def descriptor_of(path: Path, size: int = 0) -> Generator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        if size:
            os.ftruncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)


async def pushed(repository: Repository, disk: Path, piece_size: int) -> str:
    """Push a disk with all that makes it an image; returns the manifest's digest."""
    layers: dict[int, Descriptor] = {}

    async def push(region: Region) -> None:
        with descriptor_of(disk.with_suffix(f".spool{region.offset}")) as spool:
            layers[region.offset], data = await encode_piece(source, region, FileSpool(spool))
            await push_blob(repository, layers[region.offset], data)

    with raw_disk(disk) as source:
        async with anyio.create_task_group() as tasks:
            for region in cut(source.size, piece_size):
                tasks.start_soon(push, region)
    small = {VM_CONFIG: b'{"version":1}', NVRAM: b"nvram"}
    small[OCI_CONFIG] = oci_config(architecture="arm64", system="linux", disk_format="raw")
    blobs = {kind: blob_descriptor(kind, data) for kind, data in small.items()}
    for kind, blob in blobs.items():
        await push_blob(repository, blob, from_bytes(small[kind]))
    manifest = flat_manifest(
        vm_config=blobs[VM_CONFIG],
        disk=[layers[offset] for offset in sorted(layers)],
        nvram=blobs[NVRAM],
        oci_config=blobs[OCI_CONFIG],
        disk_size=SIZE,
        uploaded=datetime.now(UTC),
    )
    return await repository.put_manifest("latest", manifest.encoded())


async def pulled(repository: Repository, layout: Layout, target: Path) -> None:
    async def fetch(place: int) -> None:
        await fetch_piece(repository, layout.base.pieces[place], descriptor, target, reads_as_zeros=True)

    with descriptor_of(target, layout.disk_size) as descriptor:
        async with anyio.create_task_group() as tasks:
            for place in range(len(layout.base.pieces)):
                tasks.start_soon(fetch, place)


async def layout_of(repository: Repository) -> Layout:
    return flat_layout(read_manifest(await repository.manifest("latest")), "latest")


def blocks(path: Path) -> int:
    return path.stat().st_blocks


def skopeo_copy(source: str, target: str) -> None:
    words = ["skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run([*words, source, target], check=True, capture_output=True, timeout=60)


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("piece_size", [64 * MIB, 16 * MIB, 4 * MIB, 5_000_001])
async def test_a_disk_goes_through_a_registry(
    repository: Repository, before: Front, disk: Path, tmp_path: Path, piece_size: int
) -> None:
    await pushed(repository, disk, piece_size)
    before.seen.clear()
    await pulled(repository, await layout_of(repository), tmp_path / "target")
    assert same(disk, tmp_path / "target")
    assert blocks(tmp_path / "target") <= blocks(disk) * 1.1
    before.seen.clear()
    await pushed(repository, disk, piece_size)
    assert before.count("POST", "uploads") == 0  # everything is there already


async def test_a_disk_comes_through_a_bad_line(
    repository: Repository, before: Front, disk: Path, tmp_path: Path
) -> None:
    before.faults += [Fault("PUT", "uploads", drop=True), Fault("POST", "uploads", times=3, status=429)]
    await pushed(repository, disk, 16 * MIB)
    before.faults += [
        Fault("GET", BLOBS, times=4, cut_after=1_500_000),
        Fault("GET", BLOBS, times=3, status=503),
        Fault("GET", BLOBS, cut_after=10),
    ]
    await pulled(repository, await layout_of(repository), tmp_path / "target")
    assert same(disk, tmp_path / "target")


async def test_wrong_bytes_are_fetched_once_more_and_leave_no_trace(
    repository: Repository, before: Front, disk: Path, tmp_path: Path
) -> None:
    def flipped(data: bytes) -> bytes:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]

    await pushed(repository, disk, 64 * MIB)
    layout = await layout_of(repository)
    before.faults.append(Fault("GET", BLOBS, change=flipped))
    await pulled(repository, layout, tmp_path / "target")
    assert same(disk, tmp_path / "target")
    before.faults.append(Fault("GET", BLOBS, times=2, change=flipped))
    with pytest.raises(ExceptionGroup) as refused:
        await pulled(repository, layout, tmp_path / "bad")
    assert refused.group_contains(CorruptBlob, match=layout.base.pieces[0].blob.digest)
    assert blocks(tmp_path / "bad") == 0


async def test_progress_counts_everything_once(
    repository: Repository, before: Front, disk: Path, tmp_path: Path
) -> None:
    done: list[int] = []
    await pushed(repository, disk, 64 * MIB)
    piece = (await layout_of(repository)).base.pieces[0]
    before.faults.append(Fault("GET", BLOBS, change=lambda data: bytes(len(data))))
    with descriptor_of(tmp_path / "target", SIZE) as target:
        await fetch_piece(repository, piece, target, "target", reads_as_zeros=False, progress=done.append)
    assert sum(done) == piece.blob.size
    assert same(disk, tmp_path / "target")


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_spool_gives_any_part_of_the_piece_it_holds(disk: Path, tmp_path: Path, kind: str) -> None:
    with raw_disk(disk) as source, descriptor_of(tmp_path / "spool") as descriptor:
        spool = MemorySpool() if kind == "memory" else FileSpool(descriptor)
        for region in (Region(0, SIZE), Region(0, SIZE // 2)):  # the second in the place of the first
            layer, data = await encode_piece(source, region, spool)
            whole = b"".join([part async for part in data(0, layer.size)])
            assert digest_of(whole) == layer.digest
            for start, end in ((0, 10), (MIB - 5, 2 * MIB + 5), (layer.size - 3, layer.size)):
                assert b"".join([part async for part in data(start, end)]) == whole[start:end]


async def test_zeros_need_no_spool_and_can_be_sent_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    os.truncate(tmp_path / "disk", 200 * MIB + 1)
    with raw_disk(tmp_path / "disk") as source, descriptor_of(tmp_path / "spool") as spool:
        layer, data = await encode_piece(source, Region(0, source.size), FileSpool(spool))
        assert os.fstat(spool).st_size == 0
    whole = b"".join([part async for part in data(0, layer.size)])
    assert digest_of(whole) == layer.digest
    for start, end in ((0, 10), (100, 900_000), (layer.size - 3, layer.size)):
        assert b"".join([part async for part in data(start, end)]) == whole[start:end]


async def test_a_cancelled_fetch_ends_soon(repository: Repository, before: Front, disk: Path, tmp_path: Path) -> None:
    await pushed(repository, disk, 64 * MIB)
    piece = (await layout_of(repository)).base.pieces[0]
    before.faults.append(Fault("GET", BLOBS, stall=1000))
    with descriptor_of(tmp_path / "target", SIZE) as target, anyio.fail_after(30), anyio.move_on_after(0.5) as scope:
        await fetch_piece(repository, piece, target, "target", reads_as_zeros=True)
    assert scope.cancelled_caught


async def test_what_cannot_be_written_is_told_as_the_only_cause(
    repository: Repository, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pushed(repository, disk, 64 * MIB)
    piece = (await layout_of(repository)).base.pieces[0]
    monkeypatch.setattr(to_thread.current_default_thread_limiter(), "total_tokens", 1)

    async def fetch(descriptor: int) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(to_thread.run_sync, time.sleep, 0.5)  # the writer has to wait, and more comes than fits
            await fetch_piece(repository, piece, descriptor, "full", reads_as_zeros=True)

    with descriptor_of(Path("/dev/full")) as full, pytest.raises(ExceptionGroup) as failure:
        await fetch(full)
    assert failure.value.split(NoSpace)[1] is None


async def test_another_client_copies_the_image_with_all_digests(
    repository: Repository, registry_host: str, disk: Path, tmp_path: Path
) -> None:
    digest = await pushed(repository, disk, 16 * MIB)
    source = f"docker://{registry_host}/{repository.namespace}:latest"
    target = f"docker://{registry_host}/{repository.namespace}-copy:latest"
    folder = tmp_path / "dir"
    for where in (target, f"dir:{folder}"):
        await to_thread.run_sync(skopeo_copy, source, where)
    async with opened(insecure=True, environment={"HOME": str(tmp_path)}) as registries:
        copy = registries.repository(registry_host, f"{repository.namespace}-copy")
        assert digest_of(await copy.manifest("latest")) == digest
        await pulled(copy, await layout_of(copy), tmp_path / "target")
    assert same(disk, tmp_path / "target")
    manifest = (folder / "manifest.json").read_bytes()
    assert digest_of(manifest) == digest


async def test_memory_does_not_grow_with_the_piece(repository: Repository, tmp_path: Path) -> None:
    disk = tmp_path / "big.img"
    with disk.open("wb") as file:
        for _ in range(32):
            file.write(NOISE)
    size = disk.stat().st_size
    before_all = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with raw_disk(disk) as source, descriptor_of(tmp_path / "spool") as spool:
        layer, _ = await encode_piece(source, Region(0, size), FileSpool(spool))
    assert layer.size > 190 * MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_all < 60 * 1024
    assert repository.namespace
