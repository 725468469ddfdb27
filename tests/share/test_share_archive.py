"""Archives from the web as folders: fetched once, unpacked without leaving the folder, gone after the run."""

from __future__ import annotations

import glob
import io
import os
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Literal

import pytest
from aiohttp import web

from tartlet.host.paths import Home
from tartlet.share.archive import ArchiveFailed, unpacked

OUTSIDE = "/tmp/tartlet-test-outside"


def packed(mode: str, *entries: tarfile.TarInfo | tuple[str, str]) -> bytes:
    """A tar archive; an entry is a name with its text, or anything tar knows."""
    made = io.BytesIO()
    kinds: dict[str, Literal["w:gz", "w:xz", "w"]] = {"gz": "w:gz", "xz": "w:xz", "": "w"}
    with tarfile.open(fileobj=made, mode=kinds[mode]) as archive:
        for entry in entries:
            info, text = (entry, "") if isinstance(entry, tarfile.TarInfo) else _file(*entry)
            archive.addfile(info, io.BytesIO(text.encode()))
    return made.getvalue()


def _file(name: str, text: str) -> tuple[tarfile.TarInfo, str]:
    info = tarfile.TarInfo(name)
    info.size, info.uid, info.mode = len(text), 4242, 0o4755
    return info, text


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


class Server:
    """Serves one thing, and counts how often it was asked for."""

    content = b""
    asked = 0
    url = ""

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(body=self.content, status=200 if self.content else 404)


@pytest.fixture
async def server() -> AsyncGenerator[Server]:
    serving = Server()
    app = web.Application()
    app.router.add_get("/{name:.*}", serving.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    serving.url = f"http://127.0.0.1:{runner.addresses[0][1]}/stuff.tar.gz"
    yield serving
    await runner.cleanup()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepared()


@pytest.mark.parametrize("mode", ["gz", "xz", ""])
async def test_an_archive_is_fetched_once_and_unpacked_for_each_run(server: Server, home: Home, mode: str) -> None:
    server.content = packed(mode, ("folder/file", "text"))
    said: list[str] = []
    for _ in range(2):
        async with unpacked(server.url, home, said.append) as folder:
            assert folder.parent == home.tmp
            assert folder.name.endswith(".volume")
            made = folder / "folder" / "file"
            assert made.read_text() == "text"
            assert (made.stat().st_uid, made.stat().st_mode & 0o7000) == (os.geteuid(), 0)
            (folder / "made by the guest").touch()
        assert list(home.tmp.iterdir()) == []
    assert server.asked == 1
    assert said == ["downloading stuff.tar.gz...", *["unpacking stuff.tar.gz..."] * 2]


@pytest.mark.parametrize(
    "entries",
    [
        [("../out", "x")],
        [(OUTSIDE, "x")],
        [link("up", ".."), ("up/out", "x")],
        [link("abs", "/tmp"), (f"abs/{os.path.basename(OUTSIDE)}", "x")],
    ],
)
async def test_nothing_gets_out_of_the_folder(
    server: Server, home: Home, entries: list[tarfile.TarInfo | tuple[str, str]]
) -> None:
    server.content = packed("gz", *entries)
    try:
        async with unpacked(server.url, home, print) as folder:
            assert not (folder.parent / "out").exists()
    except ArchiveFailed:
        assert list(home.tmp.iterdir()) == []
    assert OUTSIDE not in glob.glob("/tmp/*")
    assert not (home.tmp / "out").exists()


@pytest.mark.parametrize(("content", "told"), [(b"", "404"), (b"no archive", "tar failed")])
async def test_what_cannot_be_had_or_unpacked(server: Server, home: Home, content: bytes, told: str) -> None:
    server.content = content
    with pytest.raises(ArchiveFailed, match=told) as failed:
        async with unpacked(server.url, home, print):
            pytest.fail("it was unpacked")
    assert failed.value.exit_code == 64
    assert list(home.tmp.iterdir()) == []
