"""Downloads against a real server on this machine that cuts lines, changes its mind, forgets ranges and redirects."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from tartlet.build.checksum import Checksum, ChecksumMismatch
from tartlet.build.download import ATTEMPTS, DownloadFailed, downloaded
from tartlet.build.progress import Progress
from tartlet.errors import InvalidArgument

CONTENT = bytes(range(256)) * 4096 * 3
"""Three MiB."""
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What it serves, how it misbehaves, and what it was asked."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    modified: str | None = None
    cuts: list[int] = field(default_factory=list[int])
    """For each request to come, the bytes after which its connection is cut."""
    ranges: bool = True
    fails: list[int] = field(default_factory=list[int])
    """For each request to come, the status to answer with instead."""
    before: Callable[[], None] = lambda: None
    asked: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.headers.items()))
        self.before()
        if self.fails:
            return web.Response(status=self.fails.pop(0))
        said = {name: value for name, value in (("ETag", self.etag), ("Last-Modified", self.modified)) if value}
        if self.etag and request.headers.get("If-None-Match") == self.etag:
            return web.Response(status=304, headers=said)
        start = self._start(request)
        if start is not None and start >= len(self.content):
            return web.Response(status=416)
        if start:
            said["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        return await self._send(request, said, start or 0)

    def _start(self, request: web.Request) -> int | None:
        wanted = request.headers.get("Range")
        if not wanted or not self.ranges or request.headers.get("If-Range") not in (self.etag, self.modified):
            return None
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    async def _send(self, request: web.Request, said: dict[str, str], start: int) -> web.StreamResponse:
        rest = self.content[start:]
        response = web.StreamResponse(status=206 if start else 200, headers=said)
        response.content_length = len(rest)
        await response.prepare(request)
        cut = self.cuts.pop(0) if self.cuts else None
        await response.write(rest[:cut])
        if cut is not None:
            await anyio.sleep(0.05)  # or the bytes would be lost with the connection
            assert request.transport
            request.transport.close()
        return response


@asynccontextmanager
async def serving(server: Server) -> AsyncGenerator[Server]:
    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"/{request.match_info['to']}")

    async def around(_: web.Request) -> web.Response:
        raise web.HTTPFound("/around")

    app = web.Application()
    app.router.add_get("/to/{to}", redirect)
    app.router.add_get("/around", around)
    app.router.add_get("/{name}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.url = f"http://{host}:{port}/disk.img"
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture
async def server() -> AsyncGenerator[Server]:
    async with serving(Server()) as running:
        yield running


async def fetched(server: Server, cache: Path, checksum: Checksum | None = None) -> bytes:
    path = await downloaded(server.url, cache=cache, checksum=checksum, pause=0.01)
    return path.read_bytes()


async def test_a_file_arrives_and_its_progress_is_told(server: Server, tmp_path: Path) -> None:
    told: list[Progress] = []
    path = await downloaded(server.url, cache=tmp_path, report=told.append)
    assert path.read_bytes() == CONTENT
    assert told[-1] == Progress("downloading disk.img", len(CONTENT), len(CONTENT))


async def test_a_line_that_is_cut_again_and_again_costs_only_what_was_missing(server: Server, tmp_path: Path) -> None:
    server.cuts = [400_000] * (ATTEMPTS + 2)  # every attempt brings something, so none of them counts
    assert await fetched(server, tmp_path) == CONTENT
    starts = [int(asked.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")) for asked in server.asked]
    assert len(starts) == ATTEMPTS + 3
    assert starts == sorted({*starts}), "each attempt begins behind the one before"


async def test_a_later_process_goes_on_where_the_first_one_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts, server.fails = [1_000_000], []

    def refuse_after_the_first() -> None:
        if len(server.asked) > 1:
            server.fails = [404]

    server.before = refuse_after_the_first
    with pytest.raises(DownloadFailed):
        await fetched(server, tmp_path)
    server.before = lambda: None
    assert await fetched(server, tmp_path) == CONTENT
    assert server.asked[-1]["Range"] == "bytes=1000000-"


async def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    server.cuts, server.ranges = [500_000, 2_000_000], False
    assert await fetched(server, tmp_path) == CONTENT


@pytest.mark.parametrize("etag", ['"one"', None])
async def test_a_file_that_changes_meanwhile_is_not_mixed(server: Server, tmp_path: Path, etag: str | None) -> None:
    server.etag, server.modified = etag, "Mon, 01 Jan 2024 00:00:00 GMT"
    server.cuts = [1_000_000]
    other = CONTENT[::-1]

    def change() -> None:
        if len(server.asked) == 2:
            server.content, server.modified = other, "Tue, 02 Jan 2024 00:00:00 GMT"
            server.etag = etag and '"two"'

    server.before = change
    assert await fetched(server, tmp_path) == other


async def test_without_a_strong_validator_nothing_is_appended(server: Server, tmp_path: Path) -> None:
    server.etag, server.cuts = 'W/"one"', [1_000_000]
    assert await fetched(server, tmp_path) == CONTENT
    assert "Range" not in server.asked[1]


async def test_a_kept_file_is_not_sent_again_until_it_changes(server: Server, tmp_path: Path) -> None:
    await fetched(server, tmp_path)
    assert await fetched(server, tmp_path) == CONTENT
    assert server.asked[1]["If-None-Match"] == '"one"'
    server.content, server.etag = b"newer", '"two"'
    assert await fetched(server, tmp_path) == b"newer"


async def test_a_kept_file_serves_while_the_server_is_down(server: Server, tmp_path: Path) -> None:
    await fetched(server, tmp_path)
    server.fails = [503] * ATTEMPTS
    assert await fetched(server, tmp_path) == CONTENT


async def test_with_a_checksum_nobody_is_asked_about_a_kept_file(server: Server, tmp_path: Path) -> None:
    checksum = Checksum.parse(f"sha256:{SHA256}")
    for _ in range(2):
        assert await fetched(server, tmp_path, checksum=checksum) == CONTENT
    assert len(server.asked) == 1


async def test_another_file_than_the_checksum_says_is_refused_and_forgotten(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ChecksumMismatch, match=SHA256):
        await fetched(server, tmp_path, Checksum("sha256", "0" * 64))
    assert [name for name in os.listdir(tmp_path) if not name.endswith(".lock")] == []


async def test_trouble_of_the_server_is_waited_out_a_few_times(server: Server, tmp_path: Path) -> None:
    server.fails = [503, 500, 429]
    assert await fetched(server, tmp_path) == CONTENT
    server.fails, server.asked = [503] * 99, []
    with pytest.raises(DownloadFailed, match="503"):
        await downloaded(server.url + "?other", cache=tmp_path, pause=0.01)
    assert len(server.asked) == ATTEMPTS


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_refusal_is_final(server: Server, tmp_path: Path, status: int) -> None:
    server.fails = [status]
    with pytest.raises(DownloadFailed, match=str(status)):
        await fetched(server, tmp_path)
    assert len(server.asked) == 1


async def test_redirects_are_followed_but_not_for_ever(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("/disk.img", "/to/disk.img")
    assert (await downloaded(url, cache=tmp_path)).read_bytes() == CONTENT
    with pytest.raises(DownloadFailed, match="circle"):
        await downloaded(server.url.replace("/disk.img", "/around"), cache=tmp_path, pause=0.001)


async def test_nobody_there(tmp_path: Path) -> None:
    async with serving(Server()) as server:
        url = server.url
    with pytest.raises(DownloadFailed, match=r"disk\.img"):
        await downloaded(url.replace("//", "//me:secret@"), cache=tmp_path, pause=0.001)


async def test_a_password_in_an_address_is_not_printed(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed) as failed:
        await downloaded("http://me:secret@127.0.0.1:9/disk.img", cache=tmp_path, pause=0.001)
    assert "secret" not in str(failed.value)


async def test_everything_received_by_a_process_that_was_killed_then_is_not_sent_again(
    server: Server, tmp_path: Path
) -> None:
    path = await downloaded(server.url, cache=tmp_path)
    os.rename(path, path.with_suffix(".part"))
    os.rename(path.with_suffix(".json"), path.with_suffix(".part.json"))
    assert await fetched(server, tmp_path) == CONTENT
    assert server.asked[-1].get("If-None-Match") == '"one"'


async def test_two_at_once_download_once(server: Server, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(fetched, server, tmp_path)
    assert [asked.get("If-None-Match") for asked in server.asked] == [None, '"one"']


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "0" * 63, "sha256:" + "g" * 64, "md5:" + "0" * 32, "0" * 64]
)
def test_what_is_no_checksum_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="checksum"):
        Checksum.parse(text)


def test_a_checksum_is_read_in_any_case() -> None:
    assert str(Checksum.parse("SHA256:" + SHA256.upper())) == f"sha256:{SHA256}"


async def test_only_the_web_is_downloaded_from(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="ftp"):
        await downloaded("ftp://127.0.0.1/disk.img", cache=tmp_path)
