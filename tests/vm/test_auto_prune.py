"""Room for a pull, made on a real file system that is nearly full."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import pytest
from anyio import to_thread

from cached_images import digest, put
from command import tart
from disk_files import mounted
from pushed_images import disk_file, pushed
from registries import real_registry
from tartlet.host import access_time
from tartlet.host.paths import Home
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.reference import parse
from tartlet.image.registry.registry import opened
from tartlet.units import MIB

pytestmark = pytest.mark.needs_root


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncGenerator[str]:
    """An image of 12 MiB in a registry."""
    (tmp_path / "registry").mkdir()
    async with real_registry(tmp_path / "registry") as host, opened(insecure=True, environment={}) as registries:
        disk = disk_file(tmp_path / "disk", 12 * MIB, {0: random.Random(3).randbytes(12 * MIB)})
        await pushed(registries.repository(host, "org/new"), "latest", disk, piece=4 * MIB)
        yield f"{host}/org/new:latest"


def full_home(point: Path) -> Home:
    """A home with three cached images of 40 MiB, and too little room for the pull's 140 MiB."""
    home = Home(point / "home").prepared()
    for number in (1, 2, 3):
        made = put(ImageCache(home), f"reg.example/org/vm{number}:latest", number, bytes([number]) * 40 * MIB)
        access_time.mark(made.path, time.time() - number * 86400)
    os.sync()
    found = os.statvfs(point)
    assert 100 * MIB < found.f_bavail * found.f_frsize < 140 * MIB
    return home


def digests(home: Home) -> set[str]:
    return {image.digest for image in ImageCache(home).images() if "reg.example" in image.name.host}


async def test_a_pull_makes_room_and_tells(tmp_path: Path, remote: str) -> None:
    with mounted(tmp_path / "small.img", 256 * MIB, "mkfs.ext4", "-q", "-m", "0") as point:
        home = full_home(point)
        done = await to_thread.run_sync(lambda: tart(home.root, "pull", "--insecure", remote))
        assert done.code == 0, done.err
        assert digests(home) == {digest(1), digest(2)}
        assert f"removed reg.example/org/vm3@{digest(3)} to make room for 147 MB" in done.out


async def test_a_pull_makes_room_where_not_a_byte_is_free(tmp_path: Path, remote: str) -> None:
    with mounted(tmp_path / "small.img", 256 * MIB, "mkfs.ext4", "-q", "-m", "0") as point:
        home = full_home(point)
        for number in range(3):  # what is promised to files that are not written yet comes back
            with suppress(OSError), (point / f"filler{number}").open("wb", buffering=0) as filler:
                while filler.write(bytes(512)):
                    pass
            os.sync()
        assert os.statvfs(point).f_bavail == 0
        done = await to_thread.run_sync(lambda: tart(home.root, "pull", "--insecure", remote))
        assert done.code == 0, done.err
        assert digests(home) == {digest(1), digest(2)}


async def test_nothing_goes_when_that_is_switched_off(tmp_path: Path, remote: str) -> None:
    with mounted(tmp_path / "small.img", 256 * MIB, "mkfs.ext4", "-q", "-m", "0") as point:
        home = full_home(point)
        done = await to_thread.run_sync(lambda: tart(home.root, "pull", "--insecure", remote, TART_NO_AUTO_PRUNE=""))
        assert done.code == 0, done.err
        assert digests(home) == {digest(1), digest(2), digest(3)}


def test_a_clone_makes_room_for_what_its_guest_may_write(tmp_path: Path) -> None:
    with mounted(tmp_path / "small.img", 256 * MIB, "mkfs.ext4", "-q", "-m", "0") as point:
        home = full_home(point)
        name = f"reg.example/org/vm3@{digest(3)}"  # the one that nobody used for longest, and spared all the same
        os.truncate(ImageCache(home).find(parse(name)).disk_path, 180 * MIB)
        done = tart(home.root, "clone", name, "small", "--prune-limit", "0")
        assert (done.code, done.err) == (0, "")
        done = tart(home.root, "clone", name, "vm", TART_NO_AUTO_PRUNE="1")
        assert (done.code, done.err) == (0, "")
        assert digests(home) == {digest(1), digest(2), digest(3)}
        done = tart(home.root, "clone", name, "vm")
        assert done.code == 0
        assert done.err == f"removed reg.example/org/vm2@{digest(2)} to make room for 147 MB\n"
        assert digests(home) == {digest(1), digest(3)}
