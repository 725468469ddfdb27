"""Pulls of different images at the same moment: what they have in common is fetched once, whatever happens to one."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from cached_images import home_in
from pushed_images import disk_file, pushed
from registries import Fault, Front
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.layout import flat_layout
from tartlet.image.format.manifest import read_manifest
from tartlet.image.format.reference import ImageName
from tartlet.image.pull import disk as pull_disk
from tartlet.image.pull.growing import GrowingDisks
from tartlet.image.pull.pull import pull
from tartlet.image.registry.registry import Repository
from tartlet.units import MIB

CHILD = Path(__file__).parent.parent / "pull_child.py"
PIECE = MIB
NOISE = random.Random(21).randbytes(16 * MIB)

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    return ImageCache(home_in(tmp_path))


@pytest.fixture
def endless_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_disk, "_LEAST_PATIENCE", 1000.0)


@pytest.fixture
async def disks(repository: Repository, tmp_path: Path) -> list[Path]:
    """The disks of the images `0` and `1`: sixteen pieces of noise, of which the second has one more before them."""
    one = disk_file(tmp_path / "0.img", 16 * MIB, {0: NOISE})
    two = disk_file(tmp_path / "1.img", 17 * MIB, {0: NOISE[5:][:PIECE], PIECE: NOISE})
    for number, disk in enumerate((one, two)):
        await pushed(repository, str(number), disk, piece=PIECE)
    return [one, two]


def named(repository: Repository, number: int) -> ImageName:
    return ImageName(f"{repository.base.host}:{repository.base.port}", repository.namespace, tag=str(number))


async def blobs_of_disk(repository: Repository, number: int) -> list[str]:
    manifest = read_manifest(await repository.manifest(str(number)))
    return [layer.digest for layer in manifest.layers[1:-1]]


def times_got(before: Front) -> Counter[str]:
    """How often each blob was asked for."""
    paths = (one.path for one in before.seen if one.method == "GET")
    return Counter(found[0] for path in paths if (found := re.search(r"sha256:\w+$", path)) and "/blobs/" in path)


def same(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", one, other], check=False).returncode == 0


@pytest.mark.usefixtures("endless_patience")
async def test_two_pulls_at_once_fetch_each_piece_once(
    cache: ImageCache, repository: Repository, disks: list[Path], before: Front
) -> None:
    before.seen.clear()
    reused: list[int] = []

    async def one(number: int) -> None:
        done = await pull(cache, repository, named(repository, number))
        assert same(done.image.disk_path, disks[number])
        reused.append(done.reused)

    async with anyio.create_task_group() as tasks:
        for number in range(2):
            tasks.start_soon(one, number)
    blobs = {blob for number in range(2) for blob in await blobs_of_disk(repository, number)}
    assert {times_got(before)[blob] for blob in blobs} == {1}
    assert sum(reused) >= 16 * PIECE


async def test_two_processes_at_once_make_exact_images(
    cache: ImageCache, repository: Repository, disks: list[Path], before: Front, tmp_path: Path
) -> None:
    before.seen.clear()
    async with AsyncExitStack() as held:
        children = [
            await held.enter_async_context(await anyio.open_process(child(tmp_path, repository, number, at=0)))
            for number in range(2)
        ]
        assert [await one.wait() for one in children] == [0, 0]
    for number, disk in enumerate(disks):
        assert same(cache.find(named(repository, number)).disk_path, disk)
    assert sum(times_got(before).values()) < 2 * (16 + 2) + 1


def child(tmp_path: Path, repository: Repository, number: int, *, at: int) -> list[str]:
    """The command of a process that pulls and is killed when `at` per cent are done, unless that is 0."""
    words = [sys.executable, CHILD, tmp_path / "home", named(repository, number), f"{at}%", 2]
    return [str(word) for word in words]


@pytest.mark.parametrize("at", [25, 75])
async def test_a_pull_takes_what_a_killed_one_had_finished_and_waits_for_nothing_else(
    cache: ImageCache, repository: Repository, disks: list[Path], before: Front, tmp_path: Path, at: int
) -> None:
    killed = await anyio.run_process(child(tmp_path, repository, 0, at=at), check=False)
    assert killed.returncode == -signal.SIGKILL
    (work,) = (tmp_path / "home" / "tmp").iterdir()
    finished = len((work / "journal").read_text().splitlines()) - 1
    before.seen.clear()
    with anyio.fail_after(60):
        assert same((await pull(cache, repository, named(repository, 1))).image.disk_path, disks[1])
    assert finished > 0
    assert sum(times_got(before)[blob] for blob in await blobs_of_disk(repository, 1)) == 17 - finished


async def test_a_pull_whose_registry_is_silent_is_not_waited_for_without_end(
    cache: ImageCache, repository: Repository, disks: list[Path], before: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_disk, "_LEAST_PATIENCE", 0.2)
    blob = (await blobs_of_disk(repository, 0))[0]
    has_begun = anyio.Event()

    def watch(body: bytes) -> bytes:
        has_begun.set()
        return body

    before.faults.append(Fault("GET", blob, stall=1000, change=watch))
    before.seen.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pull, cache, repository, named(repository, 0))
        await has_begun.wait()
        with anyio.fail_after(60):
            assert same((await pull(cache, repository, named(repository, 1))).image.disk_path, disks[1])
        assert times_got(before)[blob] == 2
        tasks.cancel_scope.cancel()


@pytest.mark.usefixtures("endless_patience")
async def test_pieces_that_an_image_has_twice_are_fetched_once(
    cache: ImageCache, repository: Repository, before: Front, tmp_path: Path
) -> None:
    disk = disk_file(tmp_path / "disk.img", 8 * MIB, {at * MIB: NOISE[: 2 * MIB] for at in range(0, 8, 2)})
    await pushed(repository, "0", disk, piece=PIECE)
    before.seen.clear()
    assert same((await pull(cache, repository, named(repository, 0))).image.disk_path, disk)
    assert {times_got(before)[blob] for blob in await blobs_of_disk(repository, 0)} == {1}


async def test_pieces_are_found_in_a_work_folder_and_in_the_image_that_it_becomes(
    cache: ImageCache, repository: Repository, disks: list[Path], tmp_path: Path
) -> None:
    await anyio.run_process(child(tmp_path, repository, 0, at=50), check=False)
    (work,) = (tmp_path / "home" / "tmp").iterdir()
    growing = GrowingDisks(cache, work.with_name("0" * 32))
    pieces = flat_layout(read_manifest(await repository.manifest("1")), "1").base.pieces
    found = [len(growing.of(piece)) for piece in pieces]
    assert 0 < sum(found) < 16
    assert found[0] == 0
    assert GrowingDisks(cache, work).of(pieces[1]) == []  # its own folder
    image = (await pull(cache, repository, named(repository, 0))).image
    assert same(image.disk_path, disks[0])
    assert [[where.path for where in growing.of(piece)] for piece in pieces] == [[], *16 * [[image.disk_path]]]
    cache.delete(named(repository, 0))
    (tmp_path / "home" / "tmp" / ("1" * 32)).mkdir()
    assert GrowingDisks(cache, work).of(pieces[1]) == []
