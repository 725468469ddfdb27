"""Trees through a tar stream, and streams that somebody made to do harm."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tartlet.errors import FileTrouble, UserError
from tartlet.host.tar_stream import BadStream, pack, unpack


def through(source: Path, target: Path, *, name: str = "tree", as_name: str = "tree") -> None:
    reading, writing = os.pipe()

    def fill() -> None:
        pack(source, name, writing)
        os.close(writing)

    thread = threading.Thread(target=fill)
    thread.start()
    unpack(reading, target, as_name)
    thread.join()
    os.close(reading)


def unpacked(archive: bytes, target: Path, name: str = "thing") -> None:
    reading, writing = os.pipe()

    def fill() -> None:
        with suppress(BrokenPipeError), open(writing, "wb", buffering=0) as stream:  # it was refused before its end
            stream.write(archive)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        unpack(reading, target, name)
    finally:
        os.close(reading)
        thread.join()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, mode
    return made


def archive(*entries: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as made:
        for told in entries:
            one, content = told if isinstance(told, tuple) else (told, b"")
            one.size = len(content)
            made.addfile(one, io.BytesIO(content))
    return written.getvalue()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "target"
    made.mkdir()
    return made


def test_a_tree_arrives_as_it_was(tmp_path: Path, target: Path) -> None:
    tree = tmp_path / "source"
    (tree / "folder" / "empty").mkdir(parents=True)
    (tree / "folder" / "ä\n$").write_bytes(os.urandom(600_000))
    (tree / "script").write_text("#!/bin/sh\n")
    (tree / "script").chmod(0o750)
    (tree / "absolute").symlink_to("/etc/passwd")
    (tree / "dangling").symlink_to("nowhere")
    (tree / "linked").hardlink_to(tree / "script")
    os.utime(tree / "script", (1, 1_500_000_000.25))
    os.utime(tree / "folder", (1, 1_400_000_000))
    through(tree, target)
    got = target / "tree"
    assert sorted(str(path.relative_to(got)) for path in got.rglob("*")) == sorted(
        str(path.relative_to(tree)) for path in tree.rglob("*")
    )
    assert (got / "folder" / "ä\n$").read_bytes() == (tree / "folder" / "ä\n$").read_bytes()
    assert stat.S_IMODE((got / "script").stat().st_mode) == 0o750
    assert (got / "script").stat().st_mtime == 1_500_000_000.25
    assert (got / "folder").stat().st_mtime == 1_400_000_000
    assert (got / "absolute").readlink() == Path("/etc/passwd")
    assert (got / "dangling").readlink() == Path("nowhere")
    assert (got / "linked").samefile(got / "script")


def test_it_gets_the_name_that_is_asked_for_and_overwrites(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "file"
    source.write_text("new")
    (target / "other").write_text("old, and longer")
    through(source, target, as_name="other")
    assert (target / "other").read_text() == "new"
    (target / "other").unlink()
    (target / "other").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("mine")
    through(source, target, as_name="other")
    assert (target / "other").read_text() == "new"
    assert (tmp_path / "precious").read_text() == "mine"


def test_the_content_of_a_folder_goes_into_another(tmp_path: Path, target: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("new")
    through(tmp_path / "source", target, name=".", as_name=".")
    assert (target / "file").read_text() == "new"


@pytest.mark.parametrize("name", ["../outside", "thing/../../outside", "/outside", "thing/a/../../../outside"])
def test_no_name_leads_outside(target: Path, name: str) -> None:
    with pytest.raises(BadStream, match="not be in its place"):
        unpacked(archive((entry(name), b"evil")), target)
    assert list(target.parent.iterdir()) == [target]


def test_no_link_leads_outside(tmp_path: Path, target: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = entry("thing", tarfile.DIRTYPE)
    for link in (str(outside), "../../outside"):
        with pytest.raises(UserError):
            unpacked(
                archive(folder, entry("thing/link", tarfile.SYMTYPE, link), (entry("thing/link/file"), b"evil")), target
            )
    with pytest.raises(BadStream):
        unpacked(archive(folder, entry("thing/hard", tarfile.LNKTYPE, "../outside")), target)
    with pytest.raises(UserError):  # a file that a link made before would lead away
        unpacked(
            archive(
                folder, entry("thing/l", tarfile.SYMTYPE, "/etc"), entry("thing/l/p", tarfile.LNKTYPE, "thing/l/passwd")
            ),
            target,
        )
    assert list(outside.iterdir()) == []


def test_a_link_is_replaced_by_a_file_and_not_followed(tmp_path: Path, target: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    link = entry("thing", tarfile.SYMTYPE, str(tmp_path / "precious"))
    unpacked(archive(link, (entry("thing"), b"new")), target)
    assert (target / "thing").read_text() == "new"
    assert (tmp_path / "precious").read_text() == "mine"


def test_devices_and_privileges_stay_behind(target: Path) -> None:
    content = archive(
        entry("thing", tarfile.DIRTYPE),
        entry("thing/disk", tarfile.BLKTYPE),
        entry("thing/pipe", tarfile.FIFOTYPE),
        (entry("thing/program", mode=0o4755), b"x"),
    )
    unpacked(content, target)
    assert [path.name for path in (target / "thing").iterdir()] == ["program"]
    assert stat.S_IMODE((target / "thing" / "program").stat().st_mode) == 0o755


@pytest.mark.parametrize("damaged", ["cut", "empty", "noise", "zeros"])
def test_a_stream_that_is_cut_or_damaged_is_told(target: Path, damaged: str) -> None:
    whole = archive((entry("thing"), bytes(5000)))
    content = {"cut": whole[:700], "empty": b"", "noise": os.urandom(2048), "zeros": bytes(2048)}[damaged]
    with pytest.raises(UserError):
        unpacked(content, target)


def test_a_target_that_is_no_folder_is_told(tmp_path: Path, target: Path) -> None:
    (target / "thing").write_text("a file")
    with pytest.raises(FileTrouble, match="cannot write"):
        unpacked(archive(entry("thing", tarfile.DIRTYPE), (entry("thing/a"), b"x")), target)
    with pytest.raises(FileTrouble, match="cannot open the folder"):
        unpacked(archive((entry("thing"), b"x")), tmp_path / "nowhere")
