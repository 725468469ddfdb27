"""Synchronised folders, by either agent; the guest is this host, in another folder."""

from __future__ import annotations

import io
import json
import os
import random
import stat
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from guest_channels import served
from host_agents import agent_process, agents_served
from machines import MAC
from scripted_qga import scripted_qga
from tartlet.errors import FileTrouble
from tartlet.share.arguments import Synced
from tartlet.share.sync_host import Outcome, SyncFailed, bring
from tartlet.share.sync_host import told as sync_told
from tartlet.share.sync_plan import Known, planned
from tartlet.share.tree import Entry, Refused
from tartlet.vm.running import sync
from tartlet.vm.running.sync import synchronised

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which agents are in a guest"),
]


@dataclass(frozen=True)
class Pair:
    """A folder and its copy."""

    vm: Path
    host: Path
    guest: Path
    folder: Synced

    async def sync(self, *, send: bool = True, read_only: bool = False) -> Outcome:
        folder = replace(self.folder, read_only=read_only)
        return await synchronised(self.vm, folder, send=send, patience=10)

    async def stays_quiet(self) -> None:
        """Both sides have the same, and know it."""
        assert told(self.host) == told(self.guest)
        assert await self.sync() == Outcome()


@pytest.fixture(params=["tart", "qemu"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Pair]:
    monkeypatch.setattr(sync, "STATES", str(tmp_path / "states"))
    for name in ("vm", "host"):
        (tmp_path / name).mkdir()
    guest = tmp_path / "guest"
    folder = Synced(path=str(tmp_path / "host"), guest_path=str(guest), read_only=False)
    pair = Pair(tmp_path / "vm", tmp_path / "host", guest, folder)
    if request.param == "tart":
        with agent_process() as (port, _):
            async with agents_served(pair.vm, port):
                yield pair
    else:
        with scripted_qga() as (port, _):
            async with served(pair.vm, port, MAC):
                yield pair


def told(top: Path) -> dict[str, tuple[int, object, bytes | str]]:
    """All that is in a folder: modes, times and contents."""
    found: dict[str, tuple[int, object, bytes | str]] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content: bytes | str = b""
        when: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content, when = path.read_bytes(), status.st_mtime_ns
        found[str(path.relative_to(top))] = (status.st_mode, when, content)
    return found


def fill(top: Path) -> None:
    (top / "folder" / "empty").mkdir(parents=True)
    (top / "folder" / "data").write_bytes(os.urandom(300_000))
    (top / "-name with ä\n").write_text("x")
    (top / os.fsdecode(b"\xff")).write_text("no UTF-8")
    (top / "link").symlink_to("folder/data")
    (top / "dangling").symlink_to("/no/where")
    (top / "script").write_text("#!/bin/sh\n")
    (top / "script").chmod(0o750)
    (top / "read-only").write_text("x")
    (top / "read-only").chmod(0o444)
    (top / "folder").chmod(0o2775)
    os.mkfifo(top / "pipe")


async def test_a_folder_goes_in_and_changes_come_back(pair: Pair) -> None:
    fill(pair.host)
    outcome = await pair.sync()
    assert (outcome.sent, outcome.brought, outcome.conflicts, outcome.left) == (9, 0, [], [])
    (pair.host / "pipe").unlink()
    (pair.host / "folder").chmod(0o775)
    await pair.stays_quiet()

    (pair.guest / "new").mkdir(mode=0o700)
    (pair.guest / "new" / "file").write_bytes(os.urandom(2_000_000))
    (pair.guest / "script").write_text("#!/bin/bash\n")
    (pair.guest / "link").unlink()
    (pair.guest / "link").symlink_to("script")
    (pair.guest / "read-only").unlink()
    (pair.guest / "folder").rename(pair.guest / "renamed")
    (pair.guest / "renamed" / "data").chmod(0o600)
    before = told(pair.guest)
    assert (await pair.sync(send=False)).conflicts == []
    assert told(pair.guest) == before
    await pair.stays_quiet()

    (pair.host / "renamed" / "data").unlink()
    (pair.host / "renamed" / "empty").rmdir()
    (pair.host / "new" / "file").write_text("shorter")
    (pair.host / "dangling").unlink()
    (pair.host / "dangling").mkdir()
    await pair.sync()
    await pair.stays_quiet()


def equal(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", one, other], check=False).returncode == 0


async def test_holes_stay_holes(pair: Pair) -> None:
    with (pair.host / "sparse").open("wb") as file:
        file.truncate(60 << 20)
        file.seek(40 << 20)
        file.write(b"x" * 5000)
    await pair.sync()
    assert (pair.guest / "sparse").stat().st_size == 60 << 20
    assert (pair.guest / "sparse").stat().st_blocks < 1000
    with (pair.guest / "sparse").open("r+b") as file:
        file.seek(20 << 20)
        file.write(b"y" * 5000)
    await pair.sync()
    assert (pair.host / "sparse").stat().st_blocks < 1000
    assert equal(pair.host / "sparse", pair.guest / "sparse")


async def test_a_file_that_both_changed_stays_and_the_guests_lies_beside(pair: Pair) -> None:
    for name in ("both", "same", "gone", "kept"):
        (pair.host / name).write_text("old")
    await pair.sync()
    for top, text in ((pair.host, "host's"), (pair.guest, "guest's")):
        (top / "both").write_text(text)
        (top / "same").write_text("the same")
        os.utime(top / "same", (1, 1))
        (top / "added").write_text(text)
    (pair.host / "gone").unlink()
    (pair.guest / "gone").write_text("guest's")
    (pair.guest / "kept").unlink()
    (pair.host / "kept").write_text("host's")
    outcome = await pair.sync()
    besides = dict(outcome.conflicts)
    assert set(besides) == {"both", "added", "gone"}
    assert all(beside.startswith(f"{path}.tart-guest-") for path, beside in besides.items())
    for path in ("both", "added", "kept"):
        assert (pair.host / path).read_text() == "host's"
    assert not (pair.host / "gone").exists()
    for beside in besides.values():
        assert (pair.host / beside).read_text() == "guest's"
    await pair.sync()
    await pair.stays_quiet()


async def test_a_conflict_at_the_end_is_told_once(pair: Pair) -> None:
    (pair.host / "both").write_text("old")
    await pair.sync()
    (pair.host / "both").write_text("host's")
    (pair.guest / "both").write_text("guest's")
    assert len((await pair.sync(send=False)).conflicts) == 1
    assert (pair.guest / "both").read_text() == "guest's"
    assert (await pair.sync()).conflicts == []
    assert (pair.guest / "both").read_text() == "host's"
    await pair.stays_quiet()


async def test_folders_and_files_in_each_others_place(pair: Pair) -> None:
    (pair.host / "a").mkdir()
    (pair.host / "a" / "x").write_text("x")
    (pair.host / "b").write_text("b")
    (pair.host / "c").write_text("c")
    await pair.sync()
    (pair.guest / "a" / "x").unlink()
    (pair.guest / "a").rmdir()
    (pair.guest / "a").write_text("a file")
    (pair.guest / "b").unlink()
    (pair.guest / "b").mkdir()
    (pair.guest / "b" / "y").write_text("y")
    (pair.guest / "c").unlink()
    (pair.guest / "c").mkdir()
    (pair.guest / "c" / "z").write_text("z")
    (pair.host / "c").write_text("host's")
    outcome = await pair.sync()
    assert (pair.host / "a").read_text() == "a file"
    assert (pair.host / "b" / "y").read_text() == "y"
    assert (pair.host / "c").read_text() == "host's"
    ((path, beside),) = outcome.conflicts
    assert path == "c/z"
    assert (pair.host / beside).read_text() == "z"
    for _ in range(3):
        await pair.sync()
    await pair.stays_quiet()


async def test_what_only_goes_in_never_comes_back(pair: Pair) -> None:
    (pair.host / "a").write_text("a")
    (pair.host / "b").write_text("b")
    await pair.sync(read_only=True)
    (pair.guest / "a").write_text("changed")
    (pair.guest / "own").write_text("own")
    (pair.guest / "b").unlink()
    before = told(pair.host)
    assert (await pair.sync(read_only=True, send=False)).brought == 0
    assert (pair.guest / "a").read_text() == "changed"
    await pair.sync(read_only=True)
    assert told(pair.host) == before
    assert {path.name: path.read_text() for path in pair.guest.iterdir()} == {"a": "a", "b": "b", "own": "own"}


async def test_a_copy_of_something_else_is_left_alone(pair: Pair) -> None:
    pair.guest.mkdir()
    (pair.guest / "theirs").write_text("x")
    with pytest.raises(SyncFailed, match="holds files that did not come from here"):
        await pair.sync()
    (pair.guest / "theirs").unlink()
    (pair.host / "a").write_text("a")
    await pair.sync()
    other = pair.host.with_name("other")
    other.mkdir()
    (other / "b").write_text("b")
    moved = replace(pair.folder, path=str(other))
    (pair.guest / "a").write_text("changed")
    with pytest.raises(SyncFailed, match=f"changes that belong to {pair.host}"):
        await synchronised(pair.vm, moved, send=True, patience=10)
    await pair.sync()
    await synchronised(pair.vm, moved, send=True, patience=10)
    assert told(other) == told(pair.guest)
    assert (pair.host / "a").read_text() == "changed"


@contextmanager
def small_disk(folder: Path) -> Generator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_harms_nothing(pair: Pair) -> None:
    with small_disk(pair.host):
        (pair.host / "kept").write_text("old")
        await pair.sync()
        (pair.guest / "kept").write_text("new")
        (pair.guest / "large").write_bytes(bytes(2_000_000))
        before = told(pair.host)
        with pytest.raises(FileTrouble, match="No space left"):
            await pair.sync()
        assert told(pair.host) == before
        assert os.listdir(pair.host) == ["kept"]
        (pair.guest / "large").write_bytes(b"small")
        await pair.sync()
        await pair.stays_quiet()


async def test_a_git_work_tree_is_the_same_on_both_sides(pair: Pair) -> None:
    def git(top: Path, *words: str) -> str:
        own = ("user.name=A", "user.email=a@example.com", "safe.directory=*", "commit.gpgsign=no")
        options = [word for setting in own for word in ("-c", setting)]
        done = subprocess.run(["git", *options, "-C", top, *words], check=True, capture_output=True, text=True)
        return done.stdout

    git(pair.host, "init", "-q", "-b", "main")
    (pair.host / "file").write_text("1")
    git(pair.host, "add", ".")
    git(pair.host, "commit", "-q", "-m", "one")
    await pair.sync()
    git(pair.guest, "checkout", "-q", "-b", "topic")
    (pair.guest / "file").write_text("2")
    git(pair.guest, "commit", "-q", "-a", "-m", "two")
    git(pair.guest, "gc", "-q")
    await pair.sync()
    assert git(pair.host, "log", "--format=%s %d").splitlines() == ["two  (HEAD -> topic)", "one  (main)"]
    assert git(pair.host, "fsck", "--strict") == ""
    await pair.stays_quiet()
    assert git(pair.host, "status", "--short") == ""


@pytest.mark.parametrize(
    "line",
    [
        b'["../escaped", ["f", 420, 1, 1, 1, 1, ""]]',
        b'["/tmp/escaped", ["f", 420, 1, 1, 1, 1, ""]]',
        b'["file", ["f", 420, 1, 1, 1, 1, ""], 1]',
        b'["file", ["f", 420, 1, 1e300, 1, 1, ""]]',
        b'["other", ["f", 420, 1, 1, 1, 1, ""]]',
        b'{"file": 1}',
        b"null",
        b"no JSON",
        b"",
    ],
)
def test_what_a_hostile_guest_sends_is_refused(tmp_path: Path, line: bytes) -> None:
    known = {"file": Known(agreed_host=None, agreed_guest=None, guest=Entry("f", 0o644, 1, 1, 1, 1, ""))}
    with pytest.raises(SyncFailed):
        bring(tmp_path, planned({}, known, read_only=False), io.BytesIO(line + b"\n"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["", ".", "..", "a/../b", "a//b", "/a", "a\0b", "\ud800", ".tart-sync.x/a", "a/"])
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    line = json.dumps([path, None, None, ["f", 420, 1, 1, 1, 1, ""]]).encode()
    with pytest.raises(Refused):
        sync_told(io.BytesIO(b"null\n" + line + b"\n[]\n"))


@pytest.mark.parametrize(
    ("told", "obeyed"),
    [("5\n[]", "[]"), ("no JSON", "[]"), ("null", "[]"), ("null\n[]", "no JSON"), ("null\n[]", "5"), ("null\n[]", "")],
)
async def test_what_a_hostile_guest_answers_is_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, told: str, obeyed: str
) -> None:
    hostile = (
        f"import sys; told = sys.argv[3] == 'tell' or sys.stdin.read(); print({told!r} if told is True else {obeyed!r})"
    )
    monkeypatch.setattr(sync, "sync_program", lambda: hostile)
    (pair.host / "file").write_text("x")
    with pytest.raises(SyncFailed):
        await pair.sync()


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_happens_both_sides_come_together_and_nothing_of_the_hosts_is_lost(
    pair: Pair, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        await pair.sync()
        await pair.sync()
        assert told(pair.host) == told(pair.guest)
        before = told(pair.host)
        for _ in range(8):
            change(pair.host, chance)
            change(pair.guest, chance)
        mine = {path: what for path, what in told(pair.host).items() if before.get(path) != what}
        await pair.sync(send=chance.random() < 0.5)
        now = told(pair.host)
        for path, what in mine.items():
            if not stat.S_ISDIR(what[0]):
                assert now.get(path) == what
    for _ in range(4):
        await pair.sync()
    await pair.stays_quiet()


def change(top: Path, chance: random.Random) -> None:
    """Change something, of few names."""
    path = top.joinpath(*(chance.choice("abc") for _ in range(chance.randint(1, 3))))
    if path.is_symlink() or path.is_file():
        what = chance.randrange(4)
        if what == 0:
            path.unlink()
        elif what == 1 and path.is_file() and not path.is_symlink():
            path.chmod(chance.choice((0o600, 0o644, 0o755)))
        else:
            path.unlink()
            path.write_bytes(chance.randbytes(chance.randint(0, 100)))
    elif path.is_dir():
        if chance.random() < 0.3:
            subprocess.run(["rm", "-r", path], check=True)
    elif path.parent.is_dir() and not path.parent.is_symlink():
        what = chance.randrange(4)
        if what == 0:
            path.symlink_to(chance.choice("abc"))
        elif what == 1:
            path.mkdir()
        else:
            path.write_bytes(chance.randbytes(chance.randint(0, 100)))
