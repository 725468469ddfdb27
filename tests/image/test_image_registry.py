from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from registries import Fault, Front, front
from tartlet.image.credentials.sources import CredentialSources
from tartlet.image.format.manifest import Descriptor, Manifest, blob_descriptor, canonical_json, digest_of
from tartlet.image.format.piece_writer import CorruptBlob
from tartlet.image.registry import transport
from tartlet.image.registry.bodies import from_bytes, from_file
from tartlet.image.registry.errors import (
    AuthenticationFailed,
    BadAnswer,
    BadRegistryHost,
    NotInRegistry,
    RegistryError,
)
from tartlet.image.registry.registry import Registries, Repository, opened
from tartlet.image.registry.upload import push_blob

FOX = b"The quick brown fox jumps over the lazy dog"
FOX_DIGEST = "sha256:d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592"
NOISE = random.Random(4).randbytes(5_000_003)
BLOBS = r"/blobs/sha256"
UPLOADS = r"/blobs/uploads/"
ALICE = {"TART_REGISTRY_USERNAME": "alice", "TART_REGISTRY_PASSWORD": "s3cr:t"}

pytestmark = pytest.mark.usefixtures("no_waiting")


@asynccontextmanager
async def client(home: Path, environment: dict[str, str] | None = None) -> AsyncGenerator[Registries]:
    words = {"HOME": str(home), **(environment or {})}
    async with opened(insecure=True, environment=words) as registries:
        yield registries


@pytest.fixture
async def registries(tmp_path: Path) -> AsyncGenerator[Registries]:
    async with client(tmp_path) as made:
        yield made


def fresh(name: str = "vm") -> str:
    return f"tests/{name}-{os.urandom(6).hex()}"


def octets(data: bytes) -> Descriptor:
    return blob_descriptor("application/octet-stream", data)


async def read(repository: Repository, blob: Descriptor, start: int = 0) -> bytes:
    return b"".join([bytes(part) async for parts in repository.stream_blob(blob, start) for part in parts])


async def stored(front: Front, registries: Registries, data: bytes) -> tuple[Repository, Descriptor]:
    """A repository that has the blob; what the front saw of it is forgotten."""
    repository, blob = registries.repository(front.host, fresh()), octets(data)
    await push_blob(repository, blob, from_bytes(data))
    front.seen.clear()
    return repository, blob


async def test_a_small_blob_goes_there_and_back(registry_host: str, registries: Registries) -> None:
    repository, blob = registries.repository(registry_host, "vm-image"), octets(FOX)
    assert blob.digest == FOX_DIGEST
    assert not await repository.has_blob(digest_of(b"something else"))
    await push_blob(repository, blob, from_bytes(FOX))
    assert await repository.has_blob(FOX_DIGEST)
    assert await repository.read_blob(blob) == FOX
    assert await read(repository, blob, start=4) == FOX[4:]
    assert await push_blob(repository, blob, from_bytes(FOX)) == 0


@pytest.mark.parametrize("chunk_size", [0, 1_000_000, 2_500_002, 5_000_003, 9_000_000])
async def test_a_blob_goes_in_one_request_or_in_chunks(before: Front, registries: Registries, chunk_size: int) -> None:
    repository, blob = registries.repository(before.host, fresh()), octets(NOISE)
    assert await push_blob(repository, blob, from_bytes(NOISE), chunk_size=chunk_size) == len(NOISE)
    assert await read(repository, blob) == NOISE
    chunks = [one.headers.get("Content-Range") for one in before.seen if one.method in ("PATCH", "PUT")]
    sizes = [one.body_size for one in before.seen if one.method in ("PATCH", "PUT")]
    assert sum(sizes) == len(NOISE)
    assert all(sizes)
    if not chunk_size:
        assert chunks == [None]
    if chunk_size == 2_500_002:
        assert chunks == ["0-2500001", "2500002-5000002"]
    if chunk_size >= 5_000_003:
        assert chunks == ["0-5000002"]


async def test_a_large_file_goes_in_chunks(registry_host: str, registries: Registries, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(b"head" + NOISE * 12)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        blob = octets(NOISE * 12)
        repository = registries.repository(registry_host, fresh())
        await push_blob(repository, blob, from_file(descriptor, offset=4), chunk_size=10_000_000)
    finally:
        os.close(descriptor)
    assert digest_of(await read(repository, blob)) == blob.digest


async def test_a_manifest_is_the_same_by_tag_and_by_digest(registry_host: str, registries: Registries) -> None:
    repository = registries.repository(registry_host, "vm-image")
    config = canonical_json({"architecture": "arm64", "os": "darwin"})
    for data in (FOX, config):
        await push_blob(repository, octets(data), from_bytes(data))
    config_blob = blob_descriptor("application/vnd.oci.image.config.v1+json", config)
    raw = Manifest(schema_version=2, config=config_blob, layers=(octets(FOX),)).encoded()
    digest = await repository.put_manifest("latest", raw)
    assert await repository.manifest("latest") == await repository.manifest(digest) == raw
    await repository.ping()


async def test_what_is_not_there_is_told_apart(registry_host: str, registries: Registries) -> None:
    repository = registries.repository(registry_host, fresh())
    with pytest.raises(NotInRegistry, match=r"404: (NAME|MANIFEST)_UNKNOWN") as refused:
        await repository.manifest("latest")
    assert refused.value.status == 404
    with pytest.raises(NotInRegistry):
        await repository.read_blob(octets(b"nothing"))


async def test_a_blob_is_mounted_from_another_repository(before: Front, registries: Registries) -> None:
    source, blob = await stored(before, registries, NOISE)
    target = registries.repository(before.host, fresh())
    assert await push_blob(target, blob, from_bytes(NOISE), mount_from=source.namespace) == 0
    assert await target.has_blob(blob.digest)
    assert before.count("PUT", UPLOADS) == 0
    other = registries.repository(before.host, fresh())
    missing = octets(NOISE + b"!")
    assert await push_blob(other, missing, from_bytes(NOISE + b"!"), mount_from=source.namespace) == missing.size
    assert before.count("POST", UPLOADS) == 2


async def test_no_cookie_and_no_compression_and_our_name(before: Front, registries: Registries) -> None:
    before.faults.append(Fault("HEAD", BLOBS, headers={"Set-Cookie": "sid=1; Path=/"}))
    repository, blob = await stored(before, registries, FOX)
    await read(repository, blob)
    for one in before.seen:
        assert "Cookie" not in one.headers
        assert one.headers["Accept-Encoding"] == "identity"
        assert one.headers["User-Agent"].startswith("Tartlet/")
        assert one.headers["User-Agent"].count(";") == 1


async def test_a_cut_download_goes_on_where_it_was(before: Front, registries: Registries) -> None:
    repository, blob = await stored(before, registries, NOISE)
    before.faults += [Fault("GET", BLOBS, cut_after=2_000_000), Fault("GET", BLOBS, cut_after=1_000_000)]
    assert await read(repository, blob) == NOISE
    ranges = [one.headers.get("Range") for one in before.seen if one.method == "GET"]
    assert len(ranges) == 3
    assert ranges[0] is None
    assert all(one and one.startswith("bytes=") for one in ranges[1:])
    received = [int(one[6:-1]) for one in ranges if one]
    assert received[0] <= 2_000_000
    assert received[1] <= received[0] + 1_000_000


async def test_a_registry_that_drops_every_connection_still_delivers(before: Front, registries: Registries) -> None:
    data = NOISE * 2
    repository, blob = await stored(before, registries, data)
    before.faults.append(Fault("GET", BLOBS, times=8, cut_after=1_200_000))
    assert await read(repository, blob) == data
    assert before.count("GET", BLOBS) > 5


async def test_a_registry_without_ranges_is_read_from_the_start(before: Front, registries: Registries) -> None:
    repository, blob = await stored(before, registries, NOISE)
    before.faults += [Fault("GET", BLOBS, cut_after=2_000_000), Fault("GET", BLOBS, ignore_range=True)]
    assert await read(repository, blob) == NOISE
    assert before.count("GET", BLOBS) == 2


async def test_another_range_than_asked_for_is_refused(before: Front, registries: Registries) -> None:
    repository, blob = await stored(before, registries, NOISE)
    before.faults.append(Fault("GET", BLOBS, headers={"Content-Range": "bytes 7-5000002/5000003"}))
    with pytest.raises(BadAnswer, match="another range"):
        await read(repository, blob, start=8)


async def test_a_stalled_download_goes_on(
    before: Front, registries: Registries, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, blob = await stored(before, registries, NOISE)
    monkeypatch.setattr(transport, "STALL_SECONDS", 1.0)
    before.faults.append(Fault("GET", BLOBS, stall=1000))
    with anyio.fail_after(60):
        assert await read(repository, blob) == NOISE


@pytest.mark.parametrize("chunk_size", [0, 2_000_000])
async def test_an_upload_that_breaks_begins_anew(before: Front, registries: Registries, chunk_size: int) -> None:
    before.faults += [Fault("PUT", UPLOADS, drop=True), Fault("POST", UPLOADS, status=503)]
    if chunk_size:
        before.faults.append(Fault("PATCH", UPLOADS, status=500))
    repository, blob = registries.repository(before.host, fresh()), octets(NOISE)
    await push_blob(repository, blob, from_bytes(NOISE), chunk_size=chunk_size)
    assert await read(repository, blob) == NOISE
    assert before.count("POST", UPLOADS) == (4 if chunk_size else 3)


async def test_an_upload_that_the_registry_forgot_begins_anew(before: Front, registries: Registries) -> None:
    gone = b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"blob upload unknown to registry"}]}'
    before.faults.append(Fault("PUT", UPLOADS, status=404, body=gone))
    repository = registries.repository(before.host, fresh())
    await push_blob(repository, octets(FOX), from_bytes(FOX))
    assert before.count("POST", UPLOADS) == 2


async def test_a_registry_without_one_request_uploads_gets_a_hint(before: Front, registries: Registries) -> None:
    before.faults.append(Fault("PUT", UPLOADS, status=404))
    repository = registries.repository(before.host, fresh())
    with pytest.raises(NotInRegistry) as refused:
        await push_blob(repository, octets(FOX), from_bytes(FOX))
    assert "--chunk-size" in str(refused.value.hint)


async def test_an_upload_without_a_place_is_refused(before: Front, registries: Registries) -> None:
    before.faults.append(Fault("POST", UPLOADS, status=202))
    with pytest.raises(BadAnswer, match="where to send"):
        await push_blob(registries.repository(before.host, fresh()), octets(FOX), from_bytes(FOX))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_answers_that_may_change_are_asked_for_again(before: Front, registries: Registries, status: int) -> None:
    repository, blob = await stored(before, registries, FOX)
    before.faults += [Fault("GET", BLOBS, times=4, status=status), Fault("HEAD", BLOBS, times=4, status=status)]
    assert await read(repository, blob) == FOX
    assert await repository.has_blob(blob.digest)
    before.faults.append(Fault("GET", BLOBS, times=5, status=status, body=b"all is lost"))
    with pytest.raises(RegistryError, match=f"{status}: all is lost"):
        await read(repository, blob)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 413, 501])
async def test_answers_that_will_not_change_are_final(before: Front, registries: Registries, status: int) -> None:
    before.faults.append(Fault("GET", "/manifests/", status=status, body=b'{"errors":[{"code":"X","message":"why"}]}'))
    with pytest.raises(RegistryError, match=f"{status}: X why"):
        await registries.repository(before.host, "a/b").manifest("latest")
    assert before.count("GET", "/manifests/") == 1


async def test_the_time_a_registry_asks_for_is_waited(before: Front, registries: Registries) -> None:
    repository, blob = await stored(before, registries, FOX)
    before.faults.append(Fault("GET", BLOBS, status=429, headers={"Retry-After": "1"}))
    started = time.monotonic()
    assert await read(repository, blob) == FOX
    assert time.monotonic() - started >= 1
    assert repository.transport.pace.at_once == 2
    before.faults.append(Fault("GET", BLOBS, status=429, headers={"Retry-After": "86400"}))
    with pytest.raises(RegistryError, match="429"):
        await read(repository, blob)


async def test_wrong_bytes_are_noticed(before: Front, registries: Registries) -> None:
    repository, blob = await stored(before, registries, FOX)
    before.faults.append(Fault("GET", BLOBS, change=lambda data: data.replace(b"fox", b"fax")))
    assert await repository.read_blob(blob) == FOX
    before.faults.append(Fault("GET", BLOBS, times=2, change=lambda data: data.replace(b"fox", b"fax")))
    with pytest.raises(CorruptBlob, match=FOX_DIGEST):
        await repository.read_blob(blob)
    before.faults.append(Fault("GET", BLOBS, times=2, change=lambda data: data + b"more"))
    with pytest.raises(CorruptBlob, match=FOX_DIGEST):
        await repository.read_blob(blob)


async def test_a_manifest_that_is_another_is_fetched_again_and_then_refused(
    before: Front, registries: Registries
) -> None:
    repository = registries.repository(before.host, fresh())
    await push_blob(repository, octets(FOX), from_bytes(FOX))
    raw = Manifest(schema_version=2, config=octets(FOX), layers=()).encoded()
    digest = await repository.put_manifest("latest", raw)
    for reference in (digest, "latest"):
        before.faults.append(Fault("GET", "/manifests/", change=lambda data: data + b" "))
        assert await repository.manifest(reference) == raw
        before.faults.append(Fault("GET", "/manifests/", times=2, change=lambda data: data + b" "))
        with pytest.raises(CorruptBlob, match=digest):
            await repository.manifest(reference)
    accepts = {one.headers["Accept"] for one in before.seen if "/manifests/" in one.path and one.method == "GET"}
    assert accepts == {"application/vnd.oci.image.manifest.v1+json"}


async def test_endless_answers_are_cut(before: Front, registries: Registries) -> None:
    before.faults.append(Fault("GET", "/manifests/", change=lambda _: bytes(5_000_000), headers={}))
    before.faults[-1].status = 200
    before.faults[-1].body = bytes(5_000_000)
    with pytest.raises(BadAnswer, match="more than"):
        await registries.repository(before.host, "a/b").manifest("latest")


@pytest.mark.parametrize("host", ["https://ghcr.io", "a b", "host:port", "", "host:99999", "a/b"])
async def test_what_is_no_host_is_refused(registries: Registries, host: str) -> None:
    with pytest.raises(BadRegistryHost) as refused:
        registries.repository(host, "a")
    if "://" in host:
        assert refused.value.hint == "leave out the scheme"


async def test_a_reader_may_stop_in_the_middle(before: Front, registries: Registries) -> None:
    repository, blob = await stored(before, registries, NOISE)
    for _ in range(6):  # more often than there are slots for transfers
        async with aclosing(repository.stream_blob(blob)) as parts:
            assert await anext(parts)


async def test_a_cancelled_upload_leaves_nothing_behind(before: Front, registries: Registries) -> None:
    repository, blob = registries.repository(before.host, fresh()), octets(NOISE)
    begun, closed = anyio.Event(), anyio.Event()

    async def slow(start: int, end: int) -> AsyncGenerator[bytes]:
        try:
            yield NOISE[start : start + 1000]
            begun.set()
            await anyio.sleep(1000)
            yield NOISE[start + 1000 : end]
        finally:
            closed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(push_blob, repository, blob, slow)
        await begun.wait()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(30):
        await closed.wait()
    assert not await repository.has_blob(blob.digest)


async def test_an_upload_that_nobody_takes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts the connection and reads nothing."""
    monkeypatch.setattr(transport, "STALL_SECONDS", 0.2)

    async def endless(start: int, end: int) -> AsyncIterator[bytes]:
        for _ in range(start, end, 2**20):
            yield bytes(2**20)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with client(tmp_path) as registries:
            repository = registries.repository(f"127.0.0.1:{listener.getsockname()[1]}", "a")
            with anyio.fail_after(30), pytest.raises(TimeoutError):
                async with repository.answer(
                    "PUT", repository.url("x"), expected={201}, body=lambda: endless(0, 2**30), size=2**30
                ):
                    pass


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_credentials_open_the_registry(before: Front, tmp_path: Path, auth: str) -> None:
    before.auth = auth
    async with client(tmp_path, ALICE) as registries:
        repository, blob = registries.repository(before.host, fresh()), octets(NOISE)
        await repository.ping()
        await push_blob(repository, blob, from_bytes(NOISE))
        assert await read(repository, blob) == NOISE
    async with client(tmp_path) as registries:
        with pytest.raises((AuthenticationFailed, RegistryError), match="401") as refused:
            await registries.repository(before.host, "a").ping()
    assert str(refused.value.hint).startswith(f"log in with `tart login {before.host}`")
    async with client(tmp_path, {**ALICE, "TART_REGISTRY_PASSWORD": "old"}) as registries:
        with pytest.raises((AuthenticationFailed, RegistryError), match="401") as refused:
            await registries.repository(before.host, "a").ping()
    assert str(refused.value.hint).startswith("it was asked as alice from the environment; check that password")


async def test_tokens_are_shared_and_grow_with_what_is_done(before: Front, tmp_path: Path) -> None:
    before.auth = "bearer"
    async with client(tmp_path, ALICE) as registries:
        namespace = fresh()
        repository = registries.repository(before.host, namespace)
        assert not await repository.has_blob(FOX_DIGEST)
        await push_blob(repository, octets(FOX), from_bytes(FOX))
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(registries.repository(before.host, namespace).has_blob, FOX_DIGEST)
    tokens = [one for one in before.seen if one.path == "/token"]
    assert [one.query for one in tokens] == [
        f"account=tests&scope=repository:{namespace}:{rights}&service=tests" for rights in ("pull", "pull,push")
    ]
    uploads = [one for one in before.seen if one.method == "PUT"]
    assert len(uploads) == 1  # no body is sent in vain for want of a token


async def test_many_tasks_ask_for_one_token(before: Front, tmp_path: Path) -> None:
    before.auth = "bearer"
    async with client(tmp_path, ALICE) as registries:
        repository = registries.repository(before.host, fresh())
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(repository.has_blob, FOX_DIGEST)
    assert before.count("GET", "/token") == 1


async def test_many_tasks_ask_a_source_once(before: Front, tmp_path: Path) -> None:
    before.auth = "basic"
    helper = tmp_path / "docker-credential-counted"
    answer = '{"Username": "alice", "Secret": "s3cr:t"}'
    helper.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\necho '{answer}'\n")
    helper.chmod(0o755)
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text('{"credsStore": "counted"}')
    path = f"{tmp_path}:{os.environ['PATH']}"
    async with client(tmp_path, {"PATH": path}) as registries:
        repository = registries.repository(before.host, fresh())
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(repository.has_blob, FOX_DIGEST)
    assert (tmp_path / "asked").read_text() == "asked\n"


async def test_a_token_that_ends_is_replaced(before: Front, tmp_path: Path) -> None:
    before.auth, before.token_answer = "bearer", lambda text: {"token": text, "expires_in": 0.3}
    async with client(tmp_path, ALICE) as registries:
        repository = registries.repository(before.host, fresh())
        for _ in range(3):
            await repository.has_blob(FOX_DIGEST)
            await anyio.sleep(0.3)
    assert before.count("GET", "/token") == 3
    assert before.count("HEAD", BLOBS) == 4  # only the first request had to be repeated


async def test_a_token_that_the_registry_forgot_is_replaced(before: Front, tmp_path: Path) -> None:
    before.auth = "bearer"
    async with client(tmp_path, ALICE) as registries:
        repository = registries.repository(before.host, fresh())
        await repository.has_blob(FOX_DIGEST)
        before.tokens.clear()
        before.tokens["used up"] = ("", 0)
        await repository.has_blob(FOX_DIGEST)
    assert before.count("GET", "/token") == 2


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("access_token", {}),
        ("token", {"expires_in": "300", "issued_at": "2020-01-01T00:00:00.123Z"}),  # dead on arrival
        ("token", {"issued_at": "not a time", "refresh_token": "x"}),
    ],
)
async def test_all_forms_of_tokens_work(before: Front, tmp_path: Path, name: str, more: dict[str, object]) -> None:
    before.auth, before.token_answer = "bearer", lambda text: {name: text, **more}
    async with client(tmp_path, ALICE) as registries:
        repository = registries.repository(before.host, fresh())
        await push_blob(repository, octets(FOX), from_bytes(FOX))
        assert await repository.read_blob(octets(FOX)) == FOX


async def test_public_images_need_no_credentials(before: Front, tmp_path: Path) -> None:
    before.auth, before.anonymous_pull = "bearer", True
    async with client(tmp_path, ALICE) as registries:
        repository = registries.repository(before.host, fresh())
        await push_blob(repository, octets(FOX), from_bytes(FOX))
        namespace = repository.namespace
    async with client(tmp_path) as registries:
        repository = registries.repository(before.host, namespace)
        assert await repository.read_blob(octets(FOX)) == FOX
        with pytest.raises(AuthenticationFailed, match="incorrect username or password") as refused:
            await push_blob(repository, octets(b"new"), from_bytes(b"new"))
        assert "tart login" in str(refused.value.hint)


async def test_a_token_server_may_stumble(before: Front, tmp_path: Path) -> None:
    before.auth = "bearer"
    before.faults.append(Fault("GET", "/token", times=3, status=503))
    async with client(tmp_path, ALICE) as registries:
        assert not await registries.repository(before.host, fresh()).has_blob(FOX_DIGEST)


async def test_an_identity_token_is_exchanged(before: Front, tmp_path: Path) -> None:
    before.auth = "bearer"
    (tmp_path / ".docker").mkdir()
    entry = f'{{"auths": {{"{before.host}": {{"identitytoken": "refresh"}}}}}}'
    (tmp_path / ".docker" / "config.json").write_text(entry)
    async with client(tmp_path) as registries:
        assert not await registries.repository(before.host, fresh()).has_blob(FOX_DIGEST)
    assert before.count("POST", "/token") == 1


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_no_secret_is_shown(before: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture, auth: str) -> None:
    before.auth = auth
    caplog.set_level("DEBUG")
    wrong = {**ALICE, "TART_REGISTRY_PASSWORD": "hunter2"}
    async with client(tmp_path, wrong) as registries:
        with pytest.raises((AuthenticationFailed, RegistryError)) as refused:
            await registries.repository(before.host, fresh()).has_blob(FOX_DIGEST)
    told = f"{refused.value} {refused.value.hint} {caplog.text}"
    assert "hunter2" not in told
    assert "YWxpY2U6" not in told
    assert "Basic " not in told


async def test_a_redirect_to_another_host_carries_no_authorization(
    before: Front, registry_host: str, tmp_path: Path
) -> None:
    before.auth = "basic"
    async with client(tmp_path, ALICE) as registries, front(registry_host) as storage:
        repository, blob = await stored(before, registries, NOISE)
        target = f"http://{storage.host}/v2/{repository.namespace}/blobs/{blob.digest}?signature=a%2Bb"
        for status in (307, 302, 301):
            before.faults.append(Fault("GET", BLOBS, status=status, headers={"Location": target}))
            assert await read(repository, blob, start=3) == NOISE[3:]
        assert {one.query for one in storage.seen} == {"signature=a%2Bb"}
        for one in storage.seen:
            assert "Authorization" not in one.headers
            assert one.headers["Range"] == "bytes=3-"
        assert all("Authorization" in one.headers for one in before.seen)
        before.faults.append(Fault("GET", BLOBS, times=99, status=307, headers={"Location": "/v2/x/blobs/sha256:1"}))
        with pytest.raises(BadAnswer, match="without end"):
            await read(repository, blob)


async def test_credentials_are_looked_up_once_and_only_when_asked(before: Front, tmp_path: Path) -> None:
    class Counting(CredentialSources):
        async def first(self, host: str, namespace: str = "") -> None:
            asked.append((host, namespace))

    asked: list[tuple[str, str]] = []
    sources = Counting(environment={})
    async with opened(insecure=True, credentials=sources, environment={"HOME": str(tmp_path)}) as registries:
        await registries.repository(before.host, "a/b").ping()
        assert asked == []
        before.auth, before.anonymous_pull = "bearer", True
        repository = registries.repository(before.host, "a/b")
        for digest in (FOX_DIGEST, digest_of(b"")):
            await repository.has_blob(digest)
    assert asked == [(before.host, "a/b")]
