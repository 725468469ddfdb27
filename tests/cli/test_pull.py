"""`tart pull` against a real registry: what it prints, how it ends, and how the next one goes on where it ended."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import anyio
import pytest

from command import TART, Called, surroundings, tart, tart_beside
from disk_files import mounted
from pulls import PIECE, blobs_got, cache_of, cached_disk, named, same
from pushed_images import disk_file, pushed
from registries import Fault, Front
from tartlet.image.cache.cache import MARK
from tartlet.image.format.manifest import (
    MANIFEST,
    OCI_CONFIG,
    OTHER_MANIFESTS,
    VM_CONFIG,
    Manifest,
    blob_descriptor,
    read_manifest,
)
from tartlet.image.format.reference import parse
from tartlet.image.registry.bodies import from_bytes
from tartlet.image.registry.registry import Repository
from tartlet.image.registry.upload import push_blob
from tartlet.units import MIB


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


async def test_a_pull_prints_lines_and_ends_with_the_whole_image(
    repository: Repository, disk: Path, home: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    name = named(repository)
    called = await tart_beside(home, "pull", "--insecure", name)
    assert (called.code, called.err) == (0, "")
    lines = called.out.splitlines()
    assert lines[0] == f"pulling {name}..."
    assert lines[-2] == "100%"
    assert re.fullmatch(rf"pulled {name}: 1[23] MB received, \d+ kB were here already", lines[-1])
    assert same(cached_disk(home, name), disk)
    again = await tart_beside(home, "pull", "--insecure", name)
    assert again == Called(0, f"pulling {name}...\n{name} is in the cache already\n", "")


async def test_json_tells_programs_how_far_it_is(repository: Repository, disk: Path, home: Path) -> None:
    digest = await pushed(repository, "one", disk, piece=PIECE)
    name = named(repository)
    called = await tart_beside(home, "pull", "--insecure", "--format", "json", name)
    told = [json.loads(line) for line in called.out.splitlines()]
    assert told[0] == {"stage": f"pulling {name}", "done": 0, "total": None, "reused": 0}
    assert told[-2]["done"] == told[-2]["total"]
    result = told[-1]
    assert (result["result"], result["name"], result["digest"]) == ("pulled", name, digest)
    assert result["received"] + result["reused"] == told[-2]["total"]


async def test_a_pull_by_digest_is_marked_and_a_moved_tag_is_followed(
    repository: Repository, disk: Path, home: Path
) -> None:
    digest = await pushed(repository, "one", disk, piece=PIECE)
    by_digest = f"{named(repository).rpartition(':')[0]}@{digest}"
    assert (await tart_beside(home, "pull", "--insecure", by_digest)).code == 0
    cache = cache_of(home)
    assert (cache.find(parse(by_digest)).path / MARK).exists()
    with disk.open("r+b") as file:
        file.write(b"new")
    new = await pushed(repository, "one", disk, piece=PIECE)
    assert (await tart_beside(home, "pull", "--insecure", named(repository))).code == 0
    assert cache.find(parse(named(repository))).digest == new
    assert len(cache.images()) == 2


def test_what_is_no_image_name(home: Path) -> None:
    called = tart(home, "pull", "debian")
    assert (called.code, called.out) == (1, "")
    assert "'debian' is not an image name" in called.err
    assert "position 7" in called.err
    assert tart(home, "pull").code == 64
    assert tart(home, "pull", "--concurrency", "0", "a.b/c").code == 64


def test_an_address_instead_of_a_name(home: Path) -> None:
    called = tart(home, "pull", "https://ghcr.io/org/vm")
    assert called.code == 1
    assert called.err.endswith("\nleave out the scheme\n")


@pytest.mark.parametrize("format_", ["text", "json"])
async def test_a_reader_that_has_enough_ends_the_pull_without_a_word(
    repository: Repository, disk: Path, before: Front, home: Path, format_: str
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    words = [str(TART), "pull", "--insecure", "--format", format_, named(repository)]
    before.faults.append(Fault("GET", r"/blobs/", stall=0.5))  # time to close the pipe in
    reading, writing = os.pipe()
    async with await anyio.open_process(words, stdout=writing, env=surroundings(home)) as process:
        os.close(writing)
        await anyio.to_thread.run_sync(os.read, reading, 1)
        os.close(reading)
        assert process.stderr
        said = b"".join([part async for part in process.stderr])
        assert (await process.wait(), said) == (1, b"")


def test_a_local_vm_of_that_name_is_all_there_is_to_it(home: Path) -> None:
    tart(home, "create", "--linux", "debian")
    assert tart(home, "pull", "debian") == Called(0, '"debian" is a local VM: there is nothing to pull\n', "")


async def test_an_image_that_is_not_there_and_a_registry_without_tls(before: Front, home: Path) -> None:
    called = await tart_beside(home, "pull", "--insecure", f"{before.host}/no/such:one")
    assert called.code == 1
    assert called.err.startswith(f"the registry has no image {before.host}/no/such:one: ")
    assert "tart login" in called.err
    no_tls = await tart_beside(home, "pull", f"{before.host}/no/such:one", "--format", "json")
    assert no_tls.code == 1
    assert no_tls.err.startswith(
        f"cannot reach https://{before.host}/v2/no/such/manifests/one: it does not speak TLS\n"
    )


async def test_an_image_of_a_container_is_refused_by_name(repository: Repository, before: Front, home: Path) -> None:
    layer = blob_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", b"files")
    config = blob_descriptor(OCI_CONFIG, b"{}")
    await push_blob(repository, layer, from_bytes(b"files"))
    await push_blob(repository, config, from_bytes(b"{}"))
    manifest = Manifest(schema_version=2, config=config, layers=(layer,))
    await repository.put_manifest("one", manifest.encoded())
    called = await tart_beside(home, "pull", "--insecure", named(repository))
    assert called.code == 1
    assert called.err.startswith(f"{named(repository)} cannot be used: not a VM image that is understood here: ")
    assert "container" in called.err.splitlines()[1]
    assert before.count("GET", "/blobs/") == 0
    assert not list((home / "tmp").iterdir())


async def test_a_list_of_images_is_told_from_nothing(repository: Repository, before: Front, home: Path) -> None:
    config = blob_descriptor(OCI_CONFIG, b"{}")
    await push_blob(repository, config, from_bytes(b"{}"))
    inner = Manifest(schema_version=2, config=config, layers=()).encoded()
    entry = {"mediaType": MANIFEST, "digest": await repository.put_manifest("inner", inner), "size": len(inner)}
    index = OTHER_MANIFESTS[0]
    document = json.dumps({"schemaVersion": 2, "mediaType": index, "manifests": [entry]}).encode()
    await repository.put_manifest("one", document, index)
    called = await tart_beside(home, "pull", "--insecure", named(repository))
    assert called.code == 1
    assert called.err.splitlines() == [
        f"{named(repository)} is no VM image, its type is {index}",
        "a container's image cannot be run as a VM",
    ]
    before.faults.append(Fault("HEAD", "/manifests/", status=403, times=9))  # then only the first answer counts
    called = await tart_beside(home, "pull", "--insecure", named(repository))
    assert called.err.startswith(f"the registry has no image {named(repository)}")


async def test_a_config_that_is_none_is_refused_before_the_disk_is_fetched(
    repository: Repository, before: Front, home: Path, tmp_path: Path
) -> None:
    disk = disk_file(tmp_path / "disk.img", 100_000, {0: b"data"})
    await pushed(repository, "one", disk, piece=65536, config=b"[]")
    before.seen.clear()
    called = await tart_beside(home, "pull", "--insecure", named(repository))
    assert called.code == 1
    assert called.err.startswith(f"{named(repository)} cannot be used: its VM config is no JSON object\n")
    assert before.count("GET", "/blobs/") == 1


async def test_an_image_that_breaks_the_format_is_refused_with_what_to_do(
    repository: Repository, before: Front, home: Path
) -> None:
    small = [blob_descriptor(kind, b"{}") for kind in (OCI_CONFIG, VM_CONFIG)]
    for blob in small:
        await push_blob(repository, blob, from_bytes(b"{}"))
    await repository.put_manifest("one", Manifest(schema_version=2, config=small[0], layers=(small[1],)).encoded())
    called = await tart_beside(home, "pull", "--insecure", named(repository))
    told, hint = called.err.splitlines()
    assert (called.code, told) == (
        1,
        f"{named(repository)} cannot be used: an image has exactly one NVRAM layer, this one has 0",
    )
    assert "pushed anew" in hint
    assert before.count("GET", "/blobs/") == 0


async def test_a_bad_line_is_mended(repository: Repository, disk: Path, before: Front, home: Path) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    before.faults += [
        Fault("GET", "/manifests/", status=503, headers={"Retry-After": "0"}),
        Fault("GET", "/blobs/", times=3, cut_after=100_000),
        Fault("GET", "/blobs/", times=2, status=429, headers={"Retry-After": "0"}),
        Fault("GET", "/blobs/", change=lambda body: b"x" + body[1:]),
    ]
    called = await tart_beside(home, "pull", "--insecure", named(repository))
    assert (called.code, called.err) == (0, "")
    assert same(cached_disk(home, named(repository)), disk)
    assert [fault.times for fault in before.faults] == [0, 0, 0, 0]


async def test_a_registry_that_wants_a_login(repository: Repository, disk: Path, before: Front, home: Path) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    before.auth, before.token_life = "bearer", 0.3  # it ends in the middle of the pull
    words = ("pull", "--insecure", named(repository))
    refused = await tart_beside(home, *words, HOME=str(home))
    assert refused.code == 1
    assert "tart login" in refused.err
    secret = {"TART_REGISTRY_USERNAME": "alice", "TART_REGISTRY_PASSWORD": "s3cr:t"}
    called = await tart_beside(home, *words, HOME=str(home), **secret)
    assert (called.code, called.err) == (0, "")
    assert "s3cr:t" not in called.out


async def test_ctrl_c_says_that_nothing_is_lost(repository: Repository, disk: Path, before: Front, home: Path) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    late = read_manifest(await repository.manifest("one")).layers[14]
    fault = Fault("GET", late.digest, stall=60)
    before.faults.append(fault)
    name = named(repository)
    words = [str(TART), "pull", "--insecure", name]
    async with await anyio.open_process(words, env=surroundings(home), start_new_session=True) as process:
        while fault.times or len(blobs_got(before)) < 12:  # noqa: ASYNC110 - a process of its own
            await anyio.sleep(0.02)
        await anyio.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.stderr
        said = b"".join([part async for part in process.stderr]).decode()
        assert await process.wait() == 1
    assert said == f"interrupted: what came so far is kept for a day, the next pull of {name} goes on there\n"
    first = len(set(blobs_got(before)))
    assert tart(home, "list").out == "\n"  # and other verbs leave it alone
    before.seen.clear()
    assert (await tart_beside(home, "pull", "--insecure", name)).code == 0
    assert same(cached_disk(home, name), disk)
    assert len(blobs_got(before)) < first


@pytest.mark.parametrize("after", [2, 7, 14])
async def test_killed_in_the_middle_the_next_pull_is_exact_and_fetches_little_twice(
    repository: Repository, disk: Path, before: Front, home: Path, after: int
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    name, workers = named(repository), 2
    words = [str(TART), "pull", "--insecure", "--concurrency", str(workers), name]
    before.seen.clear()
    async with await anyio.open_process(words, env=surroundings(home)) as process:
        while len(blobs_got(before)) < after and process.returncode is None:  # noqa: ASYNC110
            await anyio.sleep(0.001)
        process.kill()
    assert cache_of(home).names() == []
    assert (await tart_beside(home, "pull", "--insecure", "--concurrency", str(workers), name)).code == 0
    assert same(cached_disk(home, name), disk)
    got = blobs_got(before)
    assert len(got) - len(set(got)) - 2 <= workers  # the config and the variables are small


async def test_two_pulls_of_one_image_at_once_share_the_work(
    repository: Repository, disk: Path, before: Front, home: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    before.seen.clear()
    ended: list[Called] = []

    async def one() -> None:
        ended.append(await tart_beside(home, "pull", "--insecure", named(repository)))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(one)
    assert [called.code for called in ended] == [0, 0, 0]
    assert len(blobs_got(before)) == len(set(blobs_got(before)))
    assert same(cached_disk(home, named(repository)), disk)


@pytest.mark.needs_root
async def test_a_full_disk_says_so_and_more_room_lets_the_pull_go_on(
    repository: Repository, disk: Path, before: Front, tmp_path: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    name = named(repository)
    with mounted(tmp_path / "small.img", 24 * MIB, "mkfs.ext4", "-q", "-m", "0") as point:
        (point / "filler").write_bytes(bytes(11 * MIB))
        words = ("pull", "--insecure", "--concurrency", "2", name)
        called = await tart_beside(point / "home", *words)
        assert called.code == 1
        told = r"no room to write \S+: No space left on device\nfree some space; `tart prune` removes old images\n"
        assert re.fullmatch(told, called.err)
        assert tart(point / "home", "list").out == "\n"
        (point / "filler").unlink()
        first = blobs_got(before)
        before.seen.clear()
        assert (await tart_beside(point / "home", *words)).code == 0
        assert same(cached_disk(point / "home", name), disk)
        finished = len(first) - 2 - 2  # without the small ones, and a piece for each worker
        assert len(blobs_got(before)) <= 14 - finished
