from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import anyio
import msgspec
import pytest

from cached_images import home_in
from disk_files import freed_bytes, mounted
from pushed_images import disk_file, pushed
from registries import Fault, Front
from tartlet.disk.model import allocated
from tartlet.errors import UserError
from tartlet.host import access_time, scratch
from tartlet.host.trouble import NoSpace
from tartlet.image.cache.cache import MARK, ImageCache
from tartlet.image.cache.cached_image import ImageMissing
from tartlet.image.format.layout import StackedImage
from tartlet.image.format.manifest import (
    MANIFEST,
    OCI_CONFIG,
    OVERLAY,
    BadManifest,
    blob_descriptor,
    canonical_json,
    read_manifest,
)
from tartlet.image.format.piece_writer import CorruptBlob
from tartlet.image.format.reference import ImageName
from tartlet.image.progress import TransferProgress
from tartlet.image.pull.pull import LEAST_ROOM, SPARE_ROOM, Pulled, pull
from tartlet.image.pull.reuse import LocalDisk
from tartlet.image.registry import registry
from tartlet.image.registry.bodies import from_bytes
from tartlet.image.registry.errors import ImageNotInRegistry
from tartlet.image.registry.registry import Repository, opened
from tartlet.image.registry.unreachable import RegistryUnreachable
from tartlet.image.registry.upload import push_blob
from tartlet.units import MIB

CHILD = Path(__file__).parent.parent / "pull_child.py"
BLOBS = r"/blobs/sha256"
NOISE = random.Random(7).randbytes(12 * MIB)
PIECE = 2 * MIB
SIZE = 20 * MIB + 4096

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    return ImageCache(home_in(tmp_path))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Ten pieces of two MiB and a short one: data, pieces of zeros, holes inside of pieces, a final byte."""
    data = {0: NOISE[: 3 * MIB], 8 * MIB + 65536: NOISE[3 * MIB : 7 * MIB], 14 * MIB: NOISE[7 * MIB :], SIZE - 1: b"!"}
    return disk_file(tmp_path / "disk.img", SIZE, {at: part[: SIZE - at] for at, part in data.items()})


def named(repository: Repository, tag: str = "one") -> ImageName:
    return ImageName(f"{repository.base.host}:{repository.base.port}", repository.namespace, tag=tag)


def blobs_got(before: Front) -> list[str]:
    return [one.path for one in before.seen if one.method == "GET" and re.search(BLOBS, one.path)]


def same(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", one, other], check=False).returncode == 0


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for one in group.exceptions:
        inner = cast("BaseExceptionGroup[BaseException]", one) if isinstance(one, BaseExceptionGroup) else None
        found += leaves(inner) if inner else [one]
    return found


async def test_a_pulled_image_is_complete_verified_and_sparse(
    cache: ImageCache, repository: Repository, disk: Path, tmp_path: Path
) -> None:
    digest = await pushed(repository, "one", disk, piece=PIECE, nvram=bytes(128 * 1024) + b"n")
    told: list[TransferProgress] = []
    pulled = await pull(cache, repository, named(repository), report=told.append)
    assert not pulled.was_cached
    image = cache.find(named(repository))
    assert image == pulled.image
    assert image.digest == digest
    assert sorted(os.listdir(image.path)) == ["config.json", "disk.img", "manifest.json", "nvram.bin"]
    assert same(image.disk_path, disk)
    assert allocated(image.disk_path) <= allocated(disk) + 65536
    assert image.nvram_path.read_bytes() == bytes(128 * 1024) + b"n"
    assert image.nvram_path.stat().st_blocks * 512 < 128 * 1024
    assert image.manifest() == await repository.manifest("one")
    assert os.listdir(tmp_path / "home" / "tmp") == []
    assert told[-1].done == told[-1].total == pulled.received + pulled.reused
    assert told[-1].reused == pulled.reused > 0  # the zeros


async def test_more_at_once_than_there_are_pieces(cache: ImageCache, repository: Repository, disk: Path) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    with anyio.fail_after(60):
        pulled = await pull(cache, repository, named(repository), at_once=2**64 - 1)
    assert same(pulled.image.disk_path, disk)


async def test_a_second_pull_fetches_the_manifest_only(
    cache: ImageCache, repository: Repository, disk: Path, before: Front
) -> None:
    digest = await pushed(repository, "one", disk, piece=PIECE)
    await repository.put_manifest("two", await repository.manifest("one"))
    image = (await pull(cache, repository, named(repository))).image
    access_time.mark(image.path, 1_000_000_000)
    before.seen.clear()
    assert (await pull(cache, repository, named(repository))).was_cached
    assert access_time.of(image.path) == 1_000_000_000
    for other in (named(repository, "two"), named(repository).at_digest(digest)):
        assert (await pull(cache, repository, other)).was_cached
    assert blobs_got(before) == []
    assert access_time.of(image.path) > 1_700_000_000
    assert (image.path / MARK).exists()
    assert cache.find(named(repository, "two")) == image


async def test_an_image_of_another_repository_is_linked(
    cache: ImageCache, repository: Repository, disk: Path, before: Front, tmp_path: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    async with opened(insecure=True, environment={"HOME": str(tmp_path)}) as registries:
        elsewhere = registries.repository(before.host, f"{repository.namespace}-copy")
        await pushed(elsewhere, "one", disk, piece=PIECE)
        first = (await pull(cache, repository, named(repository))).image
        before.seen.clear()
        second = await pull(cache, elsewhere, named(elsewhere))
    assert second.was_cached
    assert blobs_got(before) == []
    assert second.image.digest == first.digest
    assert sorted(os.listdir(second.image.path)) == ["config.json", "disk.img", "manifest.json", "nvram.bin"]
    assert freed_bytes(second.image.path) < 65536  # all but the disk
    cache.delete(named(repository))
    assert same(cache.find(named(elsewhere)).disk_path, disk)
    assert os.listdir(tmp_path / "home" / "tmp") == []


async def test_an_image_that_has_lost_its_disk_is_none_and_a_pull_mends_it(
    cache: ImageCache, repository: Repository, disk: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    image = (await pull(cache, repository, named(repository))).image
    image.disk_path.unlink()
    assert cache.names() == []
    mended = await pull(cache, repository, named(repository))
    assert not mended.was_cached
    assert same(mended.image.disk_path, disk)
    assert [one.name.digest for one in cache.names()] == [None, image.digest]


async def test_only_what_changed_is_fetched(
    cache: ImageCache, repository: Repository, disk: Path, before: Front
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    with disk.open("r+b") as file:
        file.seek(15 * MIB)
        file.write(b"changed")
    await pushed(repository, "two", disk, piece=PIECE)
    await pull(cache, repository, named(repository))
    before.seen.clear()
    second = await pull(cache, repository, named(repository, "two"))
    assert same(second.image.disk_path, disk)
    assert len(blobs_got(before)) == 1 + 2  # one piece, the config and the firmware variables
    assert second.reused > second.received > 0


async def test_pieces_are_found_at_any_offset_and_size_of_disk(
    cache: ImageCache, repository: Repository, before: Front, tmp_path: Path
) -> None:
    one = disk_file(tmp_path / "one.img", 8 * MIB, {0: NOISE[: 8 * MIB]})
    two = disk_file(tmp_path / "two.img", 12 * MIB, {2 * MIB: NOISE[4 * MIB : 8 * MIB], 6 * MIB: NOISE[: 4 * MIB]})
    await pushed(repository, "one", one, piece=PIECE)
    await pushed(repository, "two", two, piece=PIECE)
    await pull(cache, repository, named(repository))
    before.seen.clear()
    second = await pull(cache, repository, named(repository, "two"))
    assert same(second.image.disk_path, two)
    assert len(blobs_got(before)) == 2


async def test_a_disk_outside_of_the_cache_helps_and_a_changed_one_does_no_harm(
    cache: ImageCache, repository: Repository, disk: Path, before: Front, tmp_path: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    manifest = await repository.manifest("one")
    changed = tmp_path / "changed.img"
    shutil.copyfile(disk, changed)
    with changed.open("r+b") as file:
        file.seek(MIB)
        file.write(b"changed")
        file.seek(2 * MIB)
        file.truncate(2 * MIB + 10)
    disks = [LocalDisk(manifest, changed), LocalDisk(b"{", disk), LocalDisk(manifest, tmp_path / "no")]
    pulled = await pull(cache, repository, named(repository), local_disks=lambda: disks)
    assert same(pulled.image.disk_path, disk)
    before.seen.clear()
    cache.delete(named(repository))
    whole = await pull(cache, repository, named(repository), local_disks=lambda: [LocalDisk(manifest, disk)])
    assert len(blobs_got(before)) == 2
    assert same(whole.image.disk_path, disk)


async def test_a_moved_tag_replaces_the_old_image_which_is_the_first_to_go(
    cache: ImageCache, repository: Repository, disk: Path
) -> None:
    old = (await pull(cache, repository, await _tagged(repository, disk))).image
    seen: list[float] = []

    def make_room(size: int) -> None:
        assert size > MIB
        seen.append(access_time.of(old.path))

    with disk.open("r+b") as file:
        file.write(b"new")
    new = await pull(cache, repository, await _tagged(repository, disk), make_room=make_room)
    assert seen[0] > 0 == seen[1]
    assert cache.images() == [new.image]


async def _tagged(repository: Repository, disk: Path) -> ImageName:
    await pushed(repository, "one", disk, piece=PIECE)
    return named(repository)


async def test_the_room_that_is_asked_for_leaves_out_zeros_and_what_is_there(
    cache: ImageCache, repository: Repository, tmp_path: Path
) -> None:
    asked: list[int] = []
    empty = disk_file(tmp_path / "empty.img", 500 * MIB, {200 * MIB: b"data"})
    await pushed(repository, "one", empty, piece=100 * MIB)
    await pull(cache, repository, named(repository), make_room=asked.append)
    assert asked == [LEAST_ROOM, 100 * MIB + SPARE_ROOM]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", BLOBS, times=3, cut_after=100_000),
        Fault("GET", BLOBS, times=3, status=429, headers={"Retry-After": "0"}),
        Fault("GET", BLOBS, times=3, status=503),
        Fault("GET", BLOBS, times=1, change=lambda body: b"x" + body[1:]),
        Fault("GET", BLOBS, times=2, drop=True),
    ],
    ids=["cut", "429", "503", "wrong bytes", "dropped"],
)
async def test_faults_of_the_network_are_mended(
    cache: ImageCache, repository: Repository, disk: Path, before: Front, fault: Fault
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    before.faults.append(fault)
    assert same((await pull(cache, repository, named(repository))).image.disk_path, disk)
    assert fault.times == 0


async def test_a_registry_that_goes_away_is_not_taken_for_a_wrong_name(
    cache: ImageCache, repository: Repository, disk: Path, before: Front
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    before.faults.append(Fault("GET", BLOBS, times=1000, drop=True))
    with pytest.raises(RegistryUnreachable) as failure:
        await pull(cache, repository, named(repository))
    assert "not lost" in str(failure.value.hint)


async def test_a_blob_that_stays_damaged_leaves_nothing_visible_and_is_resumed(
    cache: ImageCache, repository: Repository, disk: Path, before: Front, tmp_path: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    layer = read_manifest(await repository.manifest("one")).layers[6]
    before.faults.append(Fault("GET", layer.digest, times=2, change=lambda body: body[:-9] + b"x" + body[-8:]))
    with pytest.raises(ExceptionGroup) as failure:
        await pull(cache, repository, named(repository), at_once=2)
    assert all(isinstance(leaf, CorruptBlob) for leaf in leaves(failure.value))
    assert cache.names() == []
    scratch.collect(tmp_path / "home" / "tmp")
    before.seen.clear()
    assert same((await pull(cache, repository, named(repository), at_once=2)).image.disk_path, disk)
    assert 1 + 2 <= len(blobs_got(before)) < 9


async def test_a_stacked_image_is_refused_before_any_blob(
    cache: ImageCache, repository: Repository, disk: Path, before: Front, tmp_path: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    document = json.loads(await repository.manifest("one"))
    extra = blob_descriptor(OVERLAY, b"overlay")
    await push_blob(repository, extra, from_bytes(b"overlay"))
    document["layers"].insert(-1, {"mediaType": OVERLAY, "size": extra.size, "digest": extra.digest})
    await repository.put_manifest("stacked", canonical_json(document), MANIFEST)
    before.seen.clear()
    with pytest.raises(StackedImage, match="macOS 27"):
        await pull(cache, repository, named(repository, "stacked"))
    assert blobs_got(before) == []
    assert os.listdir(tmp_path / "home" / "tmp") == []
    with pytest.raises(ImageMissing):
        cache.find(named(repository, "stacked"))


async def test_two_pulls_of_one_image_share_the_work(
    cache: ImageCache, repository: Repository, disk: Path, before: Front
) -> None:
    digest = await pushed(repository, "one", disk, piece=PIECE)
    await repository.put_manifest("two", await repository.manifest("one"))
    before.seen.clear()
    results: list[Pulled] = []
    told: list[str] = []

    async def one(name: ImageName) -> None:
        results.append(await pull(cache, repository, name, report=lambda progress: told.append(progress.stage)))

    async with anyio.create_task_group() as tasks:
        for name in (named(repository), named(repository, "two"), named(repository).at_digest(digest)):
            tasks.start_soon(one, name)
    assert sorted(result.was_cached for result in results) == [False, True, True]
    assert len(blobs_got(before)) == len(set(blobs_got(before)))
    assert {str(found.name) for found in cache.names()} == {
        str(name) for name in (named(repository), named(repository, "two"), named(repository).at_digest(digest))
    }
    assert any("waiting for another pull" in stage for stage in told)


async def test_a_cancelled_pull_goes_on_where_it_was(
    cache: ImageCache, repository: Repository, disk: Path, before: Front
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    with anyio.CancelScope() as scope:

        def watch(progress: TransferProgress) -> None:
            if progress.total and progress.done > progress.total * 0.6:
                scope.cancel()

        await pull(cache, repository, named(repository), at_once=1, report=watch)
    assert scope.cancelled_caught
    assert cache.names() == []
    first = len(blobs_got(before))
    before.seen.clear()
    assert same((await pull(cache, repository, named(repository))).image.disk_path, disk)
    assert len(blobs_got(before)) < first + 2


async def test_killed_at_every_report_the_next_pull_is_exact_and_fetches_little_twice(
    repository: Repository, disk: Path, before: Front, tmp_path: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    workers, at, died = 2, 1, True
    while died:
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        cache = ImageCache(home_in(tmp_path))
        before.seen.clear()
        words = [tmp_path / "home", named(repository), at, workers]
        child = await anyio.run_process([sys.executable, CHILD, *map(str, words)], check=False)
        assert child.returncode in (0, -signal.SIGKILL), child.stderr.decode()
        died = child.returncode != 0
        assert died != bool(cache.names()), f"half an image after report {at}"
        scratch.collect(tmp_path / "home" / "tmp")
        image = (await pull(cache, repository, named(repository), at_once=workers)).image
        assert same(image.disk_path, disk), f"another disk after report {at}"
        assert os.listdir(image.path.parent.parent) == [image.path.parent.name]
        twice = len(blobs_got(before)) - len(set(blobs_got(before))) - 2  # the config and the variables are small
        assert twice <= workers, f"{twice} pieces fetched twice after report {at}"
        at += 1
    assert at > 10


@pytest.mark.needs_root
async def test_a_full_disk_leaves_nothing_half_visible_and_more_room_helps(
    repository: Repository, disk: Path, tmp_path: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    with mounted(tmp_path / "small.img", 24 * MIB, "mkfs.ext4", "-q", "-m", "0") as point:
        filler = point / "filler"
        cache = ImageCache(home_in(point))
        filler.write_bytes(NOISE[: 10 * MIB])
        with pytest.raises(ExceptionGroup) as failure:
            await pull(cache, repository, named(repository))
        assert all(isinstance(leaf, NoSpace) for leaf in leaves(failure.value))
        assert cache.names() == []
        filler.unlink()
        assert same((await pull(cache, repository, named(repository))).image.disk_path, disk)


@pytest.mark.needs_root
async def test_pieces_are_shared_and_not_copied_where_the_file_system_can(
    repository: Repository, disk: Path, before: Front, tmp_path: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    with disk.open("r+b") as file:
        file.seek(15 * MIB)
        file.write(b"changed")
    await pushed(repository, "two", disk, piece=PIECE)
    with mounted(tmp_path / "xfs.img", 512 * MIB, "mkfs.xfs", "-q", "-m", "reflink=1") as point:
        cache = ImageCache(home_in(point))
        await pull(cache, repository, named(repository))
        taken = used(point)
        before.seen.clear()
        asked: list[int] = []
        second = await pull(cache, repository, named(repository, "two"), make_room=asked.append)
        assert asked == [LEAST_ROOM, PIECE + SPARE_ROOM]
        assert same(second.image.disk_path, disk)
        assert len(blobs_got(before)) == 1 + 2
        assert used(point) - taken < PIECE + MIB
        assert freed_bytes(second.image.path) < PIECE + MIB


def used(point: Path) -> int:
    """Bytes that are taken on a file system, everything written."""
    os.sync()
    found = os.statvfs(point)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


async def test_after_another_boot_noted_pieces_are_verified_again(
    cache: ImageCache, repository: Repository, disk: Path, before: Front, tmp_path: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    layer = read_manifest(await repository.manifest("one")).layers[-2]
    before.faults.append(Fault("GET", layer.digest, times=100, status=404))
    with pytest.raises((UserError, ExceptionGroup)):
        await pull(cache, repository, named(repository), at_once=1)
    before.faults.clear()
    (work,) = (tmp_path / "home" / "tmp").iterdir()
    journal = (work / "journal").read_text()
    (work / "journal").write_text(re.sub(r"boot \S+", "boot another", journal) + "torn")
    with (work / "disk.img").open("r+b") as file:  # this never came to the medium
        file.seek(MIB)
        file.write(bytes(MIB))
    before.seen.clear()
    assert same((await pull(cache, repository, named(repository))).image.disk_path, disk)
    assert len(blobs_got(before)) == 2 + 2


@pytest.mark.parametrize(
    "fault",
    [None, Fault("GET", "", times=9, status=404), Fault("GET", "", times=2, change=lambda body: body[::-1])],
    ids=["there", "gone", "damaged"],
)
async def test_an_oci_config_is_kept_that_cannot_be_made_again_and_its_want_is_no_reason_to_fail(
    cache: ImageCache, repository: Repository, disk: Path, before: Front, fault: Fault | None
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    labelled = b'{"config":{"Labels":{"a":"b"}}}'
    config = blob_descriptor(OCI_CONFIG, labelled)
    await push_blob(repository, config, from_bytes(labelled))
    changed = msgspec.structs.replace(read_manifest(await repository.manifest("one")), config=config)
    await repository.put_manifest("one", changed.encoded())
    if fault:
        fault.path = config.digest
        before.faults.append(fault)
    told: list[TransferProgress] = []
    pulled = await pull(cache, repository, named(repository), report=told.append)
    assert told[-1].done == told[-1].total == pulled.received + pulled.reused
    assert same(pulled.image.disk_path, disk)
    assert pulled.image.oci_config_path.exists() == (fault is None)
    if fault is None:
        assert pulled.image.oci_config_path.read_bytes() == labelled


async def test_an_image_that_has_lost_layers_is_refused_before_anything_is_fetched(
    cache: ImageCache, repository: Repository, disk: Path, before: Front
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    whole = read_manifest(await repository.manifest("one"))
    torn = msgspec.structs.replace(whole, layers=(*whole.layers[:5], whole.layers[-1]))
    await repository.put_manifest("one", torn.encoded())
    before.seen.clear()
    with pytest.raises(BadManifest, match=f"hold {4 * PIECE} bytes of a disk that is said to have {SIZE}$") as refused:
        await pull(cache, repository, named(repository))
    assert "pushed anew" in str(refused.value.hint)
    assert blobs_got(before) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("HEAD", "/manifests/", times=100, status=503, headers={"Retry-After": "250"}),
        Fault("HEAD", "/manifests/", times=100, drop=True),
        Fault("HEAD", "/manifests/", times=100, hang=1000),
    ],
    ids=["503", "dropped", "silent"],
)
async def test_what_else_a_name_may_stand_for_is_asked_once_and_delays_nothing(
    cache: ImageCache, repository: Repository, before: Front, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_ASIDE_SECONDS", 0.2)
    before.faults.append(fault)
    with anyio.fail_after(30), pytest.raises(ImageNotInRegistry, match="has no image"):
        await pull(cache, repository, named(repository))
    assert before.count("HEAD", "/manifests/") <= 2  # aiohttp repeats what fails on a connection kept from before


async def test_an_image_that_cannot_be_put_in_place_is_not_fetched_again(
    cache: ImageCache, repository: Repository, disk: Path, before: Front
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    name = named(repository)
    place = cache.path(name).parent
    place.parent.mkdir(parents=True)
    place.write_text("no folder")
    with pytest.raises(UserError):
        await pull(cache, repository, name)
    place.unlink()
    before.seen.clear()
    assert same((await pull(cache, repository, name)).image.disk_path, disk)
    assert len(blobs_got(before)) == 2  # the config and the firmware variables
    assert not (cache.find(name).path / "journal").exists()


async def test_a_journal_with_a_number_that_is_none_is_not_believed(
    cache: ImageCache, repository: Repository, disk: Path, tmp_path: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    words = [tmp_path / "home", named(repository), "50%", 2]
    await anyio.run_process([sys.executable, CHILD, *map(str, words)], check=False)
    (work,) = (tmp_path / "home" / "tmp").iterdir()
    with (work / "journal").open("a") as journal:
        journal.write("9999\n10\n")  # the last piece has not come yet
    assert same((await pull(cache, repository, named(repository))).image.disk_path, disk)


async def test_a_place_that_cannot_be_read_is_no_reason_to_fail(
    cache: ImageCache, repository: Repository, tmp_path: Path
) -> None:
    disk = disk_file(tmp_path / "disk.img", 4096, {0: NOISE[:4096]})
    await pushed(repository, "one", disk, piece=PIECE)
    (tmp_path / "folder").mkdir()  # it can be opened and has 4096 bytes
    disks = [LocalDisk(await repository.manifest("one"), tmp_path / "folder")]
    assert same((await pull(cache, repository, named(repository), local_disks=lambda: disks)).image.disk_path, disk)


def test_interrupted_pulls_are_spared_for_a_day(tmp_path: Path) -> None:
    young, old, other = (tmp_path / name for name in ("a" * 32, "b" * 32, "c" * 31))
    for folder in (young, old, other):
        folder.mkdir()
    os.utime(old, (0, time.time() - 86_401))
    scratch.collect(tmp_path)
    assert os.listdir(tmp_path) == [young.name]
