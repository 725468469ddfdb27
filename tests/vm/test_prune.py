"""Pruning with real files: what goes, what stays, and what deaths, clones and second prunes make of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cached_images import CONFIG, digest, home_in, name, put
from command import Called, snapshot, tart
from disk_files import check, mounted
from killed import deaths
from tartlet.disk.clone import stand_on
from tartlet.host import access_time
from tartlet.host.copying import reflink
from tartlet.host.paths import Home
from tartlet.image.cache.cache import ImageCache
from tartlet.image.cache.cached_image import CachedImage, ImageMissing
from tartlet.units import GIB, MIB
from tartlet.vm.images import prune as pruning
from tartlet.vm.images.prune import cache_entries, prune, reclaim
from tartlet.vm.stored.store import VmStore

DATA = random.Random(7).randbytes(3 * MIB)
DAY = 24 * 3600


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_in(tmp_path)


@pytest.fixture
def store(home: Home) -> VmStore:
    return VmStore(home)


def image(home: Home, number: int, *, days: float, disk: bytes = DATA) -> CachedImage:
    """A tagged image, last used so many days ago."""
    made = put(ImageCache(home), f"reg.example/org/vm{number}:latest", number, disk)
    access_time.mark(made.path, time.time() - days * DAY)
    return made


def vm_on(home: Home, source: Path, called: str, *, days: float = 0) -> Path:
    """A local VM that stands on a cached disk."""
    folder = home.vms / called
    folder.mkdir(parents=True)
    stand_on(source, folder)
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "nvram.bin").write_bytes(b"nvram")
    access_time.mark(folder, time.time() - days * DAY)
    return folder


def guest(home: Home, called: str, *, days: float) -> Path:
    folder = home.cache / "distros" / called
    folder.mkdir(parents=True)
    (folder / "disk.img").write_bytes(DATA)
    recipe = {"distribution": "debian", "codename": "bookworm", "architecture": "amd64"}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    access_time.mark(folder, time.time() - days * DAY)
    return folder


def download(home: Home, stem: str, *, days: float, end: str = "") -> Path:
    folder = home.cache / "downloads"
    folder.mkdir(exist_ok=True)
    (folder / f"{stem}{end}").write_bytes(DATA)
    (folder / f"{stem}{end}.json").write_text('{"URL": "https://example.com/disk.qcow2"}')
    (folder / f"{stem}.lock").touch()
    access_time.mark(folder / f"{stem}{end}", time.time() - days * DAY)
    return folder / f"{stem}{end}"


def interrupted(home: Home, *, days: float = 0) -> Path:
    folder = home.tmp / ("ab" * 16)
    folder.mkdir()
    (folder / "disk.img").write_bytes(DATA)
    (folder / "manifest.json").write_bytes(b"{}")
    os.utime(folder, (time.time(), time.time() - days * DAY))
    return folder


def cached(home: Home) -> set[str]:
    return {str(one.name) for one in ImageCache(home).names()}


HOLD = """
import sys
from tartlet.host.locks import kept_from_removal
with kept_from_removal(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""

SUPERVISE = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(script: str, path: Path) -> Generator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"held\n"
        yield
        process.stdin.close()


def test_everything_in_the_caches_can_go(home: Home, store: VmStore) -> None:
    image(home, 1, days=1)
    guest(home, "ab", days=2)
    download(home, "cd", days=3)
    download(home, "ef", days=3, end=".part")
    interrupted(home)
    (home.cache / "IPSWs").mkdir()
    (home.cache / "IPSWs" / "sha256:12.ipsw").write_bytes(DATA)
    told = {(one.entry.kind, one.entry.name) for one in prune(store, older_than=0)}
    assert told == {
        ("image", f"reg.example/org/vm1@{digest(1)}"),
        ("built guest", "debian:bookworm amd64"),
        ("download", "https://example.com/disk.qcow2"),
        ("interrupted pull", "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
        ("restore image", "sha256:12.ipsw"),
    }
    assert cached(home) == set()
    left = sorted(str(path.relative_to(home.root)) for path in home.root.rglob("*") if not path.is_dir())
    assert left == ["cache/downloads/cd.lock", "cache/downloads/ef.lock"]
    assert os.listdir(home.tmp) == []


def test_age_counts_in_days_and_tags_go_along(home: Home, store: VmStore) -> None:
    image(home, 1, days=3.01)
    image(home, 2, days=2.99)
    done = prune(store, older_than=3)
    assert [(one.entry.name, one.reason) for one in done] == [
        (f"reg.example/org/vm1@{digest(1)}", "not used for 3 days")
    ]
    assert cached(home) == {"reg.example/org/vm2:latest", f"reg.example/org/vm2@{digest(2)}"}
    assert not os.path.lexists(home.cache / "OCIs" / "reg.example" / "org" / "vm1" / "latest")


def test_a_mark_protects_from_collection_only(home: Home, store: VmStore) -> None:
    made = put(ImageCache(home), f"reg.example/org/vm@{digest(1)}", 1)
    assert prune(store, unused=True) == []
    assert made.path.exists()
    prune(store, budget=0)
    assert not made.path.exists()


def test_a_budget_is_exact_to_the_byte(home: Home, store: VmStore) -> None:
    for number in (1, 2, 3):
        image(home, number, days=number)
    sizes = {one.name: one.size for one in cache_entries(store)}
    assert len(set(sizes.values())) == 1
    size = sizes[f"reg.example/org/vm1@{digest(1)}"]
    assert size == sum(path.stat().st_blocks for path in ImageCache(home).images()[0].path.iterdir()) * 512
    assert prune(store, budget=3 * size) == []
    assert [one.entry.name for one in prune(store, budget=3 * size - 1)] == [f"reg.example/org/vm3@{digest(3)}"]
    assert [one.entry.name for one in prune(store, budget=size)] == [f"reg.example/org/vm2@{digest(2)}"]
    assert prune(store, budget=size) == []


def test_the_disk_that_a_vm_stands_on_stays(home: Home, store: VmStore) -> None:
    made = image(home, 1, days=9)
    built = guest(home, "ab", days=9)
    for source, called in ((made.disk_path, "one"), (built / "disk.img", "two")):
        vm_on(home, source, called)
    done = prune(store, older_than=1, budget=0)
    assert {one.entry.path: one.removed for one in done} == {made.path: False, built: False}
    assert all("a VM stands on it" in one.reason for one in done)
    store.delete("one")
    assert [one.entry.path for one in prune(store, older_than=1) if one.removed] == [made.path]
    check(home.vms / "two")


def test_what_another_process_uses_stays_and_the_rest_goes(home: Home, store: VmStore) -> None:
    kept = image(home, 1, days=3)
    image(home, 2, days=2)
    built, came, pull = guest(home, "ab", days=2), download(home, "cd", days=2), interrupted(home)
    for path in (kept.path, built, came, pull):
        with another_process(HOLD, path):
            used = [one for one in prune(store, older_than=0, dry_run=True) if not one.removed]
            assert [(one.entry.path, one.reason) for one in used] == [(path, "another process uses it")]
    with another_process(HOLD, kept.path), another_process(HOLD, home.cache / "downloads" / "cd.lock"):
        prune(store, older_than=0)
        assert {one.path for one in cache_entries(store)} == {kept.path, came}


def test_local_vms_go_only_when_asked_for_and_never_while_they_run(home: Home, store: VmStore) -> None:
    source = image(home, 1, days=9).disk_path
    for called in ("old", "running", "suspended", "new"):
        vm_on(home, source, called, days=0 if called == "new" else 5)
    (home.vms / "suspended" / "state.vzvmsave").write_bytes(b"state")
    (home.vms / "suspended" / "nvram.bin").write_bytes(b"nvram")
    access_time.mark(home.vms / "suspended", time.time() - 5 * DAY)
    with another_process(SUPERVISE, home.vms / "running" / "config.json"):
        prune(store, older_than=1)
        assert len(store.names()) == 4
        assert {one.entry.name for one in prune(store, vms=True, older_than=1)} == {"old", "suspended"}
    assert store.names() == ["new", "running"]


def test_the_last_vm_on_a_base_is_charged_with_it(home: Home, store: VmStore) -> None:
    made = image(home, 1, days=9)
    for called, days in (("first", 2), ("second", 1)):
        vm_on(home, made.disk_path, called, days=days)
    ImageCache(home).delete(name("reg.example/org/vm1:latest"))
    assert prune(store, vms=True, budget=4 * MIB) == []
    done = prune(store, vms=True, budget=100_000)
    assert [one.entry.name for one in done] == ["second", "first"]
    assert done[0].freed < MIB
    assert done[1].freed > 3 * MIB


@pytest.mark.parametrize("words", [("--older-than", "1"), ("--space-budget", "0"), ("--gc",)])
def test_a_dry_run_changes_nothing_and_tells(home: Home, words: tuple[str, ...]) -> None:
    made = image(home, 1, days=9)
    ImageCache(home).path(name("reg.example/org/vm1:latest")).unlink()
    (home.tmp / "stale").mkdir()
    before = snapshot(home.root)
    access_time.mark(made.path, time.time() - 9 * DAY)
    accessed = access_time.of(made.path)
    told = tart(home.root, "prune", "--dry-run", "--format", "json", *words)
    assert (told.code, told.err) == (0, "")
    found = {one["Name"]: one for one in json.loads(told.out)}
    one = found[f"reg.example/org/vm1@{digest(1)}"]
    assert one["Kind"] == "image"
    assert one["Path"] == str(made.path)
    assert one["Freed"] > 3 * MIB
    assert one["Removed"] is True
    assert one["Reason"]
    assert set(found) - {one["Name"]} == ({"stale"} if words == ("--gc",) else set())
    shown = tart(home.root, "prune", "--dry-run", *words)
    assert shown.out.splitlines()[0].split() == ["Kind", "Name", "Frees", "Accessed", "Why"]
    assert " 3 MB " in shown.out
    assert " 1 week ago " in shown.out
    assert access_time.of(made.path) == accessed
    assert snapshot(home.root) == before


def test_the_command_is_silent_and_takes_the_old_name_of_the_budget(home: Home) -> None:
    image(home, 1, days=9)
    assert tart(home.root, "prune", "--space-budget", "1") == tart(home.root, "prune", "--older-than", "10")
    assert len(cached(home)) == 2
    old = tart(home.root, "prune", "--cache-budget", "0")
    assert (old.code, old.out) == (0, "")
    assert "--space-budget" in old.err
    assert cached(home) == set()
    assert tart(home.root, "prune", "--cache-budget", "0", "--space-budget", "0").code == 64
    assert tart(home.root, "prune", "--entries", "foo", "--older-than", "1").code == 64


@pytest.mark.needs_root
def test_a_full_disk_can_be_emptied(tmp_path: Path) -> None:
    with mounted(tmp_path / "small.img", 16 * MIB, "mkfs.ext4", "-q", "-m", "0") as point:
        home = home_in(point)
        made = image(home, 1, days=1)
        put(ImageCache(home), "reg.example/org/other:latest", 2)
        vm_on(home, made.disk_path, "vm")
        interrupted(home)
        _fill(point / "filler")
        assert tart(home.root, "delete", "vm", "reg.example/org/other").code == 0
        _fill(point / "more")
        assert tart(home.root, "prune", "--older-than", "0") == Called(0, "", "")
        assert cached(home) == set()
        assert list(home.tmp.iterdir()) == list(home.vms.iterdir()) == []


def _fill(path: Path) -> None:
    """Take all the room there is, to the last block."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def with_free_space(monkeypatch: pytest.MonkeyPatch, free: int | None) -> None:
    def told(folder: Path) -> int | None:
        del folder
        return free

    monkeypatch.setattr(pruning, "_free", told)


def test_as_much_is_reclaimed_as_is_missing(home: Home, store: VmStore, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [image(home, number, days=number) for number in (1, 2, 3, 4)]
    size = cache_entries(store)[0].size
    with_free_space(monkeypatch, 10 * GIB)
    assert reclaim(store, 10 * GIB) == []
    assert reclaim(store, 10 * GIB + 4 * size + 1) == []
    assert [one.entry.path for one in reclaim(store, 10 * GIB + 1, spare=[images[3].path])] == [images[2].path]
    done = reclaim(store, 10 * GIB + size + 1)
    assert [one.entry.path for one in done] == [images[3].path, images[1].path]
    assert sum(one.freed for one in done) == 2 * size
    with_free_space(monkeypatch, None)  # a file system that does not tell
    assert reclaim(store, 1) == []
    assert [one.path for one in ImageCache(home).images()] == [images[0].path]
    with_free_space(monkeypatch, 0)
    assert [one.entry.path for one in reclaim(store, 1)] == [images[0].path]


def clone_again_and_again(home: Path) -> None:
    """A child's work: VMs from an image that may vanish at any moment."""
    store, cache = VmStore(Home(home)), ImageCache(Home(home))
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        made = put(cache, "reg.example/org/vm:latest", 1, DATA)
        with suppress(ImageMissing), cache.using(made), store.work_folder() as work:
            stand_on(made.disk_path, work)
            (work / "config.json").write_bytes(CONFIG)
            (work / "nvram.bin").write_bytes(b"nvram")
            check(store.install(work, "copy").path)
            store.delete("copy")


def in_a_child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        code = 0
        try:
            work()
        except BaseException:  # noqa: BLE001 - a forked test must not go on as a second pytest
            traceback.print_exc()
            code = 1
        finally:
            os._exit(code)
    return child


def exit_codes(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_pruning_while_images_come_and_are_cloned_breaks_neither(home: Home, store: VmStore) -> None:
    child = in_a_child(lambda: clone_again_and_again(home.root))
    removed = rounds = 0
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        removed += sum(one.removed for one in prune(store, older_than=0))
        rounds += 1
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    assert rounds > 10
    assert removed


def test_two_prunes_at_once_keep_the_budget_together(home: Home, store: VmStore) -> None:
    for number in range(1, 9):
        image(home, number, days=number)
    size = cache_entries(store)[0].size
    children = [in_a_child(lambda: prune(store, budget=3 * size)) for _ in range(4)]
    assert exit_codes(children) == [0] * 4
    assert [one.digest for one in ImageCache(home).images()] == [digest(1), digest(2), digest(3)]
    assert os.listdir(home.tmp) == []


@pytest.mark.needs_root
def test_two_reclaims_at_once_remove_no_more_than_one(tmp_path: Path) -> None:
    with mounted(tmp_path / "small.img", 128 * MIB, "mkfs.ext4", "-q", "-m", "0") as point:
        home = Home(point / "home").prepared()
        store = VmStore(home)
        for number in range(1, 9):
            image(home, number, days=number)
        os.sync()
        found = os.statvfs(point)
        wanted = found.f_bavail * found.f_frsize + 5 * MIB
        children = [in_a_child(lambda: reclaim(store, wanted)) for _ in range(3)]
        assert exit_codes(children) == [0] * 3
        assert [one.digest for one in ImageCache(home).images()] == [digest(number) for number in range(1, 7)]
        assert reclaim(store, wanted, near=tmp_path) == []


def test_killed_at_any_point_everything_is_whole_or_gone(tmp_path: Path) -> None:
    def fresh() -> Home:
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        home = home_in(tmp_path)
        image(home, 1, days=2)
        vm_on(home, guest(home, "cd", days=2) / "disk.img", "vm", days=3)
        guest(home, "ab", days=2)
        interrupted(home)
        return home

    home = fresh()
    for _ in deaths(lambda: (prune(VmStore(home), older_than=1), prune(VmStore(home), vms=True, budget=0))):
        for one in ImageCache(home).images():
            assert one.disk_path.read_bytes() == DATA
        for vm in VmStore(home).all():
            check(vm.path)
        assert not (home.cache / "distros" / "ab").exists() or (home.cache / "distros" / "ab" / "disk.img").exists()
        prune(VmStore(home), older_than=0, unused=True)
        assert cached(home) == set()
        assert os.listdir(home.tmp) == []
        fresh()


@pytest.fixture
def xfs(tmp_path: Path) -> Generator[Home]:
    with mounted(tmp_path / "xfs.img", 400 * MIB, "mkfs.xfs", "-q", "-m", "reflink=1") as point:
        yield Home(point / "home").prepared()


@pytest.mark.needs_root
def test_blocks_shared_by_reflink_count_when_the_last_goes(xfs: Home) -> None:
    store = VmStore(xfs)
    first, second = (image(xfs, number, days=10 - number) for number in (1, 2))
    second.disk_path.unlink()
    assert reflink(first.disk_path, second.disk_path)
    os.sync()
    access_time.mark(second.path, time.time() - 8 * DAY)
    done = prune(store, budget=0, dry_run=True)
    assert [(one.freed > 3 * MIB, one.removed) for one in done] == [(False, True), (True, True)]
    assert [(one.entry.path, one.freed) for one in prune(store, budget=0)] == [
        (one.entry.path, one.freed) for one in done
    ]
    made = image(xfs, 3, days=9)
    vm_on(xfs, made.disk_path, "vm")
    os.sync()
    kept = prune(store, older_than=1)
    assert [(one.entry.path, one.removed) for one in kept] == [(made.path, False)]
    store.delete("vm")
    deadline = time.monotonic() + 20  # XFS gives the blocks of a removed file back when it has time for that
    while not (done := [one for one in prune(store, older_than=1) if one.removed]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [one.entry.path for one in done] == [made.path]
