from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from cached_images import CONFIG, home_in
from pushed_images import disk_file, pushed
from registries import Fault, Front, real_registry
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.layers import Region
from tartlet.image.format.layout import read_layout
from tartlet.image.format.manifest import (
    NVRAM,
    OCI_CONFIG,
    OVERLAY,
    VM_CONFIG,
    Descriptor,
    blob_descriptor,
    canonical_json,
    digest_of,
    flat_manifest,
    oci_config,
    piece_descriptor,
    read_manifest,
)
from tartlet.image.format.piece_writer import CorruptBlob
from tartlet.image.format.reference import ImageName
from tartlet.image.format.source import DiskSource, raw_disk
from tartlet.image.progress import TransferProgress
from tartlet.image.pull.pull import pull
from tartlet.image.push.cached import copy_image
from tartlet.image.push.known_images import KnownImage, known_image
from tartlet.image.push.local_blobs import LocalBlobs, local_blobs
from tartlet.image.push.plan import targets_of
from tartlet.image.push.push import NothingToPush, Pushed, PushSource, push_image
from tartlet.image.registry import transport
from tartlet.image.registry.bodies import from_bytes
from tartlet.image.registry.errors import AuthenticationFailed, RegistryError
from tartlet.image.registry.registry import Registries, Repository, opened
from tartlet.image.registry.upload import push_blob
from tartlet.units import GB, MIB

CHILD = Path(__file__).parent.parent / "push_child.py"
UPLOADS, BLOBS, MANIFESTS = r"/blobs/uploads/", r"/blobs/sha256", r"/manifests/"
NOISE = random.Random(8).randbytes(9 * MIB)
PIECE = 2 * MIB
SIZE = 20 * MIB + 4096
WHEN = datetime(2026, 8, 18, 7, 8, 9, tzinfo=UTC)
NOTHING = LocalBlobs([], (), None)
ALICE = {"TART_REGISTRY_USERNAME": "alice", "TART_REGISTRY_PASSWORD": "s3cr:t"}

pytestmark = pytest.mark.usefixtures("no_waiting")


@asynccontextmanager
async def client(tmp_path: Path, environment: Mapping[str, str] | None = None) -> AsyncGenerator[Registries]:
    async with opened(insecure=True, environment={"HOME": str(tmp_path), **(environment or {})}) as registries:
        yield registries


@pytest.fixture
async def registries(tmp_path: Path) -> AsyncGenerator[Registries]:
    async with client(tmp_path) as made:
        yield made


@pytest.fixture
def name(before: Front) -> ImageName:
    return fresh(before)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Ten pieces of two MiB and a short one: five hold data, one of these with holes inside."""
    data = {0: NOISE[: 3 * MIB], 8 * MIB + 65536: NOISE[3 * MIB : 6 * MIB], 14 * MIB: NOISE[: 2 * MIB], SIZE - 1: b"!"}
    return disk_file(tmp_path / "disk.img", SIZE, data)


def fresh(before: Front) -> ImageName:
    return ImageName(before.host, f"tests/vm-{os.urandom(6).hex()}", tag="one")


@dataclass
class Watched:
    """A disk that tells what was read of it."""

    disk: DiskSource
    reads: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @property
    def size(self) -> int:
        return self.disk.size

    def data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        return self.disk.data(start, end)

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, offset + length))
        return self.disk.read(offset, length)

    def times_read(self, at: int) -> int:
        return sum(start <= at < end for start, end in self.reads)


def vm(disk: DiskSource, *known: KnownImage, labels: Mapping[str, str] | None = None) -> PushSource:
    stub = oci_config(architecture="amd64", system="linux", disk_format="raw", labels=labels)
    return PushSource(vm_config=CONFIG, oci_config=stub, nvram=b"nvram", disk=disk, known=known)


async def pushed_disk(
    registries: Registries, disk: Path | DiskSource, *names: ImageName, known: tuple[KnownImage, ...] = (), **how: int
) -> Pushed:
    if isinstance(disk, Path):
        with raw_disk(disk) as raw:
            return await pushed_disk(registries, raw, *names, known=known, **how)
    options = {"piece_size": PIECE, "at_once": 4, "chunk_size": 0, **how}
    return await push_image(
        registries,
        targets_of(names),
        vm(disk, *known),
        scratch=Path(tempfile.gettempdir()),
        now=lambda: WHEN,
        at_once=options["at_once"],
        chunk_size=options["chunk_size"],
        piece_size=options["piece_size"],
    )


def repository_of(registries: Registries, name: ImageName) -> Repository:
    return registries.repository(name.host, name.namespace)


async def pulled_disk(registries: Registries, name: ImageName, tmp_path: Path) -> Path:
    cache = ImageCache(home_in(tmp_path / os.urandom(4).hex()))
    return (await pull(cache, repository_of(registries, name), name)).image.disk_path


def same(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", one, other], check=False).returncode == 0


def sent(before: Front) -> int:
    """Bytes of blobs that came to the front."""
    uploads = (one for one in before.seen if one.method in ("PUT", "PATCH") and re.search(UPLOADS, one.path))
    return sum(one.body_size for one in uploads)


def change(disk: Path, at: int, content: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(at)
        file.write(content)


def as_known(pushed: Pushed, name: ImageName) -> KnownImage:
    image = known_image(name, pushed.manifest)
    assert image
    return image


async def test_what_was_pushed_is_pulled_bit_for_bit(
    registries: Registries, name: ImageName, disk: Path, tmp_path: Path
) -> None:
    told: list[TransferProgress] = []
    with raw_disk(disk) as raw:
        watched = Watched(raw)
        source = vm(watched, labels={"com.example/owner": "a/b"})
        result = await push_image(
            registries,
            targets_of([name]),
            source,
            scratch=tmp_path,
            piece_size=PIECE,
            now=lambda: WHEN,
            report=told.append,
        )
    repository = repository_of(registries, name)
    raw_manifest = await repository.manifest("one")
    assert raw_manifest == result.manifest
    assert result.digest == digest_of(raw_manifest)
    manifest = read_manifest(raw_manifest)
    assert manifest.encoded() == raw_manifest  # what others write again has the same digest
    assert manifest.annotations == {
        "org.cirruslabs.tart.uncompressed-disk-size": str(SIZE),
        "org.cirruslabs.tart.upload-time": "2026-08-18T07:08:09Z",
    }
    assert [piece.size for piece in read_layout(manifest).base.pieces] == [PIECE] * 10 + [4096]
    assert b'"com.example\\/owner":"a\\/b"' in await repository.read_blob(manifest.config)
    assert await repository.read_blob(manifest.layers[0]) == CONFIG
    assert same(await pulled_disk(registries, name, tmp_path), disk)
    assert all(watched.times_read(at) <= 1 for at in range(0, SIZE, 4096))
    assert watched.times_read(4 * MIB) == watched.times_read(12 * MIB) == 0  # holes
    assert told[-1].done == told[-1].total == SIZE
    assert told[-1].reused == result.kept >= 10 * MIB
    assert [step.done for step in told] == sorted(step.done for step in told)


async def test_a_second_push_sends_what_changed_and_reads_the_rest_once(
    registries: Registries, name: ImageName, disk: Path, before: Front, tmp_path: Path
) -> None:
    await pushed_disk(registries, disk, name)
    change(disk, 9 * MIB, b"changed")
    change(disk, 18 * MIB, b"new")
    before.seen.clear()
    with raw_disk(disk) as raw:
        watched = Watched(raw)
        second = await pushed_disk(registries, watched, name)
    assert second.sent == sent(before) <= 1.3 * 2 * PIECE
    assert before.count("HEAD", BLOBS) <= 5  # the names' present images are there with all their blobs
    assert all(watched.times_read(at) <= 1 for at in range(0, SIZE, 4096) if at // PIECE not in (4, 9))
    assert same(await pulled_disk(registries, name, tmp_path), disk)


async def test_what_was_not_written_since_is_not_even_read(
    registries: Registries, name: ImageName, disk: Path, before: Front, tmp_path: Path
) -> None:
    first = await pushed_disk(registries, disk, name)
    change(disk, 9 * MIB, b"changed")
    written = Region(9 * MIB, 7)
    origin = known_image(name, first.manifest, lambda part: not (part.offset <= written.offset < part.end))
    assert origin
    before.seen.clear()
    with raw_disk(disk) as raw:
        watched = Watched(raw)
        second = await pushed_disk(registries, watched, ImageName(name.host, name.namespace, tag="v2"), known=(origin,))
    assert {at // PIECE for start, end in watched.reads for at in range(start, end, 65536)} == {4}
    assert max(map(watched.times_read, range(0, SIZE, 65536))) == 1  # written means changed: hashing first is in vain
    assert second.sent == sent(before) <= 1.3 * PIECE
    assert before.count("HEAD", BLOBS) == 4  # one for what was encoded, three for the small ones
    assert same(await pulled_disk(registries, name, tmp_path), disk) is False
    assert same(await pulled_disk(registries, ImageName(name.host, name.namespace, tag="v2"), tmp_path), disk)


async def foreign_image(repository: Repository, tag: str, disk: Path, piece: int) -> bytes:
    """An image by another encoder: same contents, other blobs."""
    layers: list[Descriptor] = []
    content = await anyio.Path(disk).read_bytes()
    small = [(VM_CONFIG, CONFIG), (NVRAM, b"nvram"), (OCI_CONFIG, b"{}")]
    for at in range(0, len(content), piece):
        part = content[at : at + piece]
        blob = b"bv4-" + len(part).to_bytes(4, "little") + part + b"bv4$"
        layers.append(
            piece_descriptor(
                digest=digest_of(blob), size=len(blob), content_digest=digest_of(part), content_size=len(part)
            )
        )
        await push_blob(repository, layers[-1], from_bytes(blob))
    vm_config, nvram, stub = (blob_descriptor(kind, data) for kind, data in small)
    for (_, data), descriptor in zip(small, (vm_config, nvram, stub), strict=True):
        await push_blob(repository, descriptor, from_bytes(data))
    manifest = flat_manifest(
        vm_config=vm_config, disk=layers, nvram=nvram, oci_config=stub, disk_size=len(content), uploaded=WHEN
    )
    await repository.put_manifest(tag, manifest.encoded())
    return manifest.encoded()


async def test_another_encoders_layers_are_kept_and_mounted_where_nothing_changed(
    registries: Registries, name: ImageName, disk: Path, before: Front, tmp_path: Path
) -> None:
    raw = await foreign_image(repository_of(registries, name), "one", disk, 3 * MIB)
    origin = known_image(name, raw)
    assert origin
    change(disk, 10 * MIB, b"changed")
    mine = fresh(before)
    before.seen.clear()
    result = await pushed_disk(registries, disk, mine, known=(origin,))
    old, new = read_layout(read_manifest(raw)).base.pieces, read_layout(read_manifest(result.manifest)).base.pieces
    assert [piece.size for piece in new] == [3 * MIB] * 3 + [2 * MIB, MIB] + [3 * MIB] * 2 + [2 * MIB + 4096]
    assert [piece.blob for piece in (*new[:3], *new[5:])] == [piece.blob for piece in (*old[:3], *old[4:])]
    assert sent(before) <= 1.3 * 3 * MIB
    assert same(await pulled_disk(registries, mine, tmp_path), disk)


async def test_layers_of_an_image_elsewhere_are_encoded_here_without_hashing_them_first(
    registries: Registries, name: ImageName, disk: Path, tmp_path: Path
) -> None:
    raw = await foreign_image(repository_of(registries, name), "one", disk, PIECE)
    (tmp_path / "other").mkdir()
    async with real_registry(tmp_path / "other") as other:
        there = ImageName(other, "a/b", tag="x")
        origin = known_image(name, raw)
        assert origin
        with raw_disk(disk) as plain:
            watched = Watched(plain)
            await pushed_disk(registries, watched, there, known=(origin,))
        assert all(watched.times_read(at) <= 1 for at in range(0, SIZE, 4096))
        assert same(await pulled_disk(registries, there, tmp_path), disk)


async def test_several_names_share_the_upload(
    registries: Registries, name: ImageName, disk: Path, before: Front, tmp_path: Path
) -> None:
    second, third = ImageName(name.host, name.namespace, tag="two"), fresh(before)
    (tmp_path / "other").mkdir()
    async with real_registry(tmp_path / "other") as other:
        far = ImageName(other, "a/b", tag="x")
        result = await pushed_disk(registries, disk, name, second, third, far)
        for one in (name, second, third, far):
            assert await repository_of(registries, one).manifest(one.reference) == result.manifest
        assert same(await pulled_disk(registries, far, tmp_path), disk)
    assert sent(before) * 2 == result.sent  # once for each registry
    puts = [one.path for one in before.seen if one.method == "PUT" and re.search(UPLOADS, one.path)]
    assert all(name.namespace in path for path in puts)
    assert any("mount=" in one.query for one in before.seen)


@pytest.mark.parametrize("chunk_size", [0, 700_000])
async def test_a_push_goes_through_a_bad_line(
    registries: Registries, name: ImageName, disk: Path, before: Front, tmp_path: Path, chunk_size: int
) -> None:
    method = "PATCH" if chunk_size else "PUT"
    before.faults += [
        Fault(method, UPLOADS, times=2, drop=True),
        Fault("PUT", UPLOADS, times=1, spoil=lambda body: body[:-1] + bytes([body[-1] ^ 1])),
        Fault("POST", UPLOADS, times=2, status=429, headers={"Retry-After": "0"}),
        Fault("HEAD", BLOBS, times=3, status=503),
        Fault("PUT", UPLOADS, times=2, status=500),
        Fault("PUT", MANIFESTS, times=2, status=502),
        Fault("PUT", MANIFESTS, times=1, cut_after=0),
        Fault("GET", MANIFESTS, times=1, cut_after=0),
    ]
    await pushed_disk(registries, disk, name, chunk_size=chunk_size)
    assert [fault.times for fault in before.faults] == [0] * 8
    assert same(await pulled_disk(registries, name, tmp_path), disk)


async def test_a_stalled_line_is_left(
    registries: Registries, name: ImageName, before: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "STALL_SECONDS", 1.0)
    other = ImageName(name.host, name.namespace, tag="other")
    await pushed_disk(registries, disk_file(tmp_path / "small.img", 512, {}), other)  # the small parts are there
    more_than_sockets_hold = dict.fromkeys(range(0, 40 * MIB, len(NOISE)), NOISE)
    disk = disk_file(tmp_path / "large.img", 45 * MIB, more_than_sockets_hold)
    before.faults.append(Fault("PUT", UPLOADS, times=2, hang=60))
    with anyio.fail_after(50):
        await pushed_disk(registries, disk, name, piece_size=64 * MIB)
    assert before.faults[0].times == 0
    assert same(await pulled_disk(registries, name, tmp_path), disk)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_a_push_logs_in_and_renews_its_token(
    name: ImageName, disk: Path, before: Front, tmp_path: Path, auth: str
) -> None:
    before.auth = auth
    async with client(tmp_path, ALICE) as registries:
        with raw_disk(disk) as raw:

            class Slow(Watched):
                def read(self, offset: int, length: int) -> bytes:
                    if len(self.reads) == 3:  # what the client holds ends in the middle
                        before.tokens = dict.fromkeys(before.tokens, ("", 0.0))
                    return super().read(offset, length)

            await pushed_disk(registries, Slow(raw), name)
        assert same(await pulled_disk(registries, name, tmp_path), disk)
    assert before.count("GET", "/token") >= (4 if auth == "bearer" else 0)
    async with client(tmp_path) as strangers:
        with pytest.raises((AuthenticationFailed, RegistryError, ExceptionGroup)):
            await pushed_disk(strangers, disk, name)


async def test_a_repository_that_cannot_be_mounted_from_is_done_without(
    name: ImageName, disk: Path, before: Front, tmp_path: Path
) -> None:
    before.auth = "bearer"
    async with client(tmp_path, ALICE) as registries:
        first, mine = await pushed_disk(registries, disk, name), fresh(before)
        realm = f'Bearer realm="http://{before.host}/token",service="tests",scope="repository:denied:pull"'
        before.faults += [
            Fault("POST", "mount=", times=1, status=401, headers={"WWW-Authenticate": realm}),
            Fault("POST", "mount=", times=3, status=403),
            Fault("GET", "denied", times=9, status=403),
        ]
        before.seen.clear()
        await pushed_disk(registries, disk, mine, known=(as_known(first, name),), at_once=1)
        assert before.faults[0].times == 0
        assert sum("mount=" in one.query for one in before.seen) == 1  # the first refusal counts for all
        assert same(await pulled_disk(registries, mine, tmp_path), disk)


async def test_a_registry_that_refuses_ends_the_push_without_a_name(
    registries: Registries, name: ImageName, disk: Path, before: Front
) -> None:
    before.faults.append(Fault("PUT", UPLOADS, times=100, status=403))
    with pytest.raises(ExceptionGroup) as failure:
        await pushed_disk(registries, disk, name)
    assert "403" in str(failure.value.exceptions[0])
    assert before.count("PUT", MANIFESTS) == 0


async def test_blobs_that_vanished_behind_a_manifest_are_sent_again(
    registries: Registries, name: ImageName, disk: Path, before: Front, tmp_path: Path
) -> None:
    """A registry's own garbage collector may do this while somebody pushes."""
    first = await pushed_disk(registries, disk, name)
    lost = read_manifest(first.manifest).layers[1].digest
    url = repository_of(registries, name).url(f"blobs/{lost}")
    async with repository_of(registries, name).answer("DELETE", url, expected={202}):
        pass
    await pushed_disk(registries, disk, name)
    assert before.count("PUT", MANIFESTS) == 3
    assert same(await pulled_disk(registries, name, tmp_path), disk)


async def test_killed_at_any_report_the_next_push_sends_only_what_is_missing(
    registries: Registries, disk: Path, before: Front, tmp_path: Path
) -> None:
    at, died = 2, True
    while died:
        name = fresh(before)
        before.seen.clear()
        words = [tmp_path, name, disk, PIECE, at]
        child = await anyio.run_process([sys.executable, CHILD, *map(str, words)], check=False)
        assert child.returncode in (0, -signal.SIGKILL), child.stderr.decode()
        died = child.returncode != 0
        assert died == (before.count("PUT", MANIFESTS) == 0)
        complete = {one.query for one in before.seen if one.method == "PUT" and re.search(UPLOADS, one.path)}
        before.seen.clear()
        await pushed_disk(registries, disk, name)
        again = {one.query for one in before.seen if one.method == "PUT" and re.search(UPLOADS, one.path)}
        digests = [{re.sub(".*digest=", "", query) for query in queries} for queries in (complete, again)]
        assert len(digests[0] & digests[1]) <= 2 if died else not digests[1]  # those of its two workers
        assert same(await pulled_disk(registries, name, tmp_path), disk)
        at += 6
    assert at > 10


async def test_a_sparse_disk_of_any_size_is_pushed_at_once(
    registries: Registries, name: ImageName, before: Front, tmp_path: Path
) -> None:
    disk = disk_file(tmp_path / "sparse.img", 50 * GB, {30 * GB: NOISE[:MIB]})
    with anyio.fail_after(30), raw_disk(disk) as raw:
        watched = Watched(raw)
        result = await pushed_disk(registries, watched, name, piece_size=32 * MIB)
    assert sum(end - start for start, end in watched.reads) <= 2 * MIB
    assert result.kept >= 49 * GB
    assert len(before.seen) < 40
    layout = read_layout(read_manifest(result.manifest))
    assert len(layout.base.pieces) == 1491
    assert layout.disk_size == 50 * GB
    assert len(result.manifest) < MIB


@pytest.mark.parametrize("what", ["nvram", "disk"])
async def test_an_image_needs_all_its_parts(
    registries: Registries, name: ImageName, before: Front, tmp_path: Path, what: str
) -> None:
    disk = disk_file(tmp_path / "empty.img", 0 if what == "disk" else 512, {})
    with raw_disk(disk) as raw:
        source = PushSource(vm_config=CONFIG, oci_config=b"{}", nvram=b"" if what == "nvram" else b"n", disk=raw)
        with pytest.raises(NothingToPush, match=what):
            await push_image(registries, targets_of([name]), source, scratch=tmp_path)
    assert before.seen == []


async def test_a_full_scratch_folder_is_named(registries: Registries, name: ImageName, disk: Path) -> None:
    with pytest.raises(ExceptionGroup) as failure, raw_disk(disk) as raw:
        await push_image(registries, targets_of([name]), vm(raw), scratch=Path("/dev/full/x"), piece_size=256 * MIB)
    assert "/dev/full/x" in str(failure.value.exceptions[0])


async def test_a_cached_image_gets_more_names_without_a_blob(
    registries: Registries, name: ImageName, disk: Path, before: Front, tmp_path: Path
) -> None:
    digest = await pushed(repository_of(registries, name), "one", disk, piece=PIECE)
    raw = await repository_of(registries, name).manifest("one")
    by_digest = name.at_digest(digest)
    for more in (ImageName(name.host, name.namespace, tag="two"), fresh(before)):
        before.seen.clear()
        result = await copy_image(registries, targets_of([more]), by_digest, raw, local=NOTHING, scratch=tmp_path)
        assert (result.sent, result.kept, result.digest, sent(before)) == (0, SIZE, digest, 0)
        assert await repository_of(registries, more).manifest(more.reference) == raw
        assert before.count("GET", BLOBS) == 0


async def test_a_cached_image_goes_to_another_registry_with_its_digest(
    registries: Registries, name: ImageName, disk: Path, before: Front, tmp_path: Path
) -> None:
    repository = repository_of(registries, name)
    await foreign_image(repository, "one", disk, 3 * MIB)
    document = read_manifest(await repository.manifest("one"))
    stacked = document.layers[1]
    raw = canonical_json(  # with a field, a layer type and an annotation that nobody here knows
        {
            "schemaVersion": 2,
            "mediaType": document.media_type,
            "unknown": [1],
            "annotations": {"a": "b"},
            "config": {"mediaType": OCI_CONFIG, "size": document.config.size, "digest": document.config.digest},
            "layers": [{"mediaType": OVERLAY, "size": stacked.size, "digest": stacked.digest}],
        }
    )
    await repository.put_manifest("odd", raw)
    by_digest = name.at_digest(digest_of(raw))
    before.faults.append(Fault("GET", stacked.digest, times=1, change=lambda body: body[::-1]))
    (tmp_path / "other").mkdir()
    async with real_registry(tmp_path / "other") as other:
        there = ImageName(other, "a/b", tag="x")
        result = await copy_image(registries, targets_of([there]), by_digest, None, local=NOTHING, scratch=tmp_path)
        assert await repository_of(registries, there).manifest("x") == raw
        assert result.sent == stacked.size + document.config.size
        copy = await repository_of(registries, there).read_blob(stacked)
        assert digest_of(copy) == stacked.digest
        before.faults.append(Fault("GET", stacked.digest, times=2, change=lambda body: body + b"x"))
        with pytest.raises(ExceptionGroup) as failure:
            await copy_image(
                registries,
                targets_of([ImageName(other, "c/d", tag="x")]),
                by_digest,
                raw,
                local=NOTHING,
                scratch=tmp_path,
            )
        assert isinstance(failure.value.exceptions[0], CorruptBlob)


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "foreign"])
async def test_a_cached_image_is_made_anew_where_that_gives_its_very_blobs(
    registries: Registries, name: ImageName, disk: Path, before: Front, tmp_path: Path, *, foreign: bool
) -> None:
    if foreign:
        await foreign_image(repository_of(registries, name), "one", disk, PIECE)
    else:
        await pushed_disk(registries, disk, name)
    cache = ImageCache(home_in(tmp_path))
    image = (await pull(cache, repository_of(registries, name), name)).image
    before.seen.clear()
    (tmp_path / "other").mkdir()
    async with real_registry(tmp_path / "other") as other:
        there = ImageName(other, "a/b", tag="x")
        with local_blobs(image) as local:
            result = await copy_image(
                registries, targets_of([there]), image.name, image.manifest(), local=local, scratch=tmp_path
            )
        assert result.digest == image.digest
        assert same(await pulled_disk(registries, there, tmp_path), disk)
    blobs = {layer.digest for layer in read_manifest(result.manifest).layers[1:-1]}
    assert before.count("GET", BLOBS) == (len(blobs) if foreign else 0)


async def test_skopeo_takes_the_image_to_another_registry_and_a_folder(
    registries: Registries, name: ImageName, disk: Path, registry_host: str, tmp_path: Path
) -> None:
    result = await pushed_disk(registries, disk, name)
    (tmp_path / "other").mkdir()
    async with real_registry(tmp_path / "other") as other:
        here, there = f"docker://{registry_host}/{name.namespace}:one", f"docker://{other}/copy/vm:two"
        plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        folder = tmp_path / "image"
        for words in ([*plain, here, there], [plain[0], here, f"dir:{folder}"]):
            await anyio.run_process(["skopeo", "copy", "-q", "--preserve-digests", *words])
        copied = ImageName(other, "copy/vm", tag="two")
        assert await repository_of(registries, copied).manifest("two") == result.manifest
        assert same(await pulled_disk(registries, copied, tmp_path), disk)
    assert (folder / "manifest.json").read_bytes() == result.manifest
    for layer in read_manifest(result.manifest).layers:
        assert digest_of((folder / layer.digest.removeprefix("sha256:")).read_bytes()) == layer.digest
