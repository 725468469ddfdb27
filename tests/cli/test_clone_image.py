"""`tart clone` of an image: pulled when it is not here, shared and not copied, whole whatever happens beside it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import anyio
import pytest

from cached_images import CONFIG, put
from command import Called, tart, tart_beside
from disk_files import mounted
from killed import deaths
from pulls import NOISE, PIECE, blobs_got, cache_of, cached_disk, named, same
from pushed_images import disk_file, pushed
from registries import Front
from stacked_images import stacked_blobs, stacked_manifest
from tartlet.host.paths import Home
from tartlet.image import origin
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.manifest import OCI_CONFIG, blob_descriptor
from tartlet.image.format.reference import parse
from tartlet.image.registry.bodies import from_bytes
from tartlet.image.registry.registry import Repository
from tartlet.image.registry.upload import push_blob
from tartlet.units import MIB
from tartlet.vm.images.clone_image import clone_image
from tartlet.vm.stored.store import VmStore

MAC = json.loads(CONFIG)["macAddress"]
DARWIN = json.dumps(json.loads(CONFIG) | {"os": "darwin", "arch": "arm64", "ecid": "ZQ==", "hardwareModel": "aA=="})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def flat(home: Path, name: str, place: Path) -> Path:
    """What the guest of a VM sees of its disk."""
    vm = home / "vms" / name
    kind = json.loads((vm / "config.json").read_text()).get("diskFormat", "raw")
    subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", vm / "disk.img", place], check=True)
    return place


def mac(home: Path, name: str) -> str:
    return str(json.loads((home / "vms" / name / "config.json").read_text())["macAddress"])


async def test_the_first_clone_pulls_and_the_second_asks_nobody(
    repository: Repository, disk: Path, before: Front, home: Path, tmp_path: Path
) -> None:
    digest = await pushed(repository, "one", disk, piece=PIECE)
    name = named(repository)
    first = await tart_beside(home, "clone", "--insecure", name, "first")
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith(f"pulling {name}...\n")
    before.seen.clear()
    assert await tart_beside(home, "clone", name, "second") == Called(0, "", "")
    assert before.seen == []
    for vm in ("first", "second"):
        assert same(flat(home, vm, tmp_path / f"{vm}.img"), disk)
        assert origin.read(home / "vms" / vm) == origin.Origin(parse(name), digest)
        assert origin.read_manifest(home / "vms" / vm) == await repository.manifest("one")
    assert mac(home, "first") == MAC
    assert mac(home, "second") != MAC
    third = json.loads((await tart_beside(home, "clone", "--format", "json", name, "third")).out)
    assert third == {"result": "cloned", "name": "third", "method": third["method"]}


async def test_clones_share_the_image_and_outlive_it(
    repository: Repository, disk: Path, home: Path, tmp_path: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    name = named(repository)
    await tart_beside(home, "clone", "--insecure", name, "vm")
    vm, image = home / "vms" / "vm", cached_disk(home, name)
    if (vm / "base.img").exists():  # no reflinks here
        assert (vm / "base.img").stat().st_ino == image.stat().st_ino
        assert (vm / "disk.img").stat().st_blocks * 512 < MIB
    assert tart(home, "delete", name) == Called(0, "", "")
    assert not image.exists()
    assert same(flat(home, "vm", tmp_path / "flat.img"), disk)
    assert tart(home, "clone", "vm", "copy").code == 0
    assert origin.read(home / "vms" / "copy") == origin.read(vm)


async def test_what_a_vm_has_of_its_image_is_not_fetched_again(
    repository: Repository, disk: Path, before: Front, home: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    name = named(repository)
    await tart_beside(home, "clone", "--insecure", name, "vm")
    tart(home, "delete", name)
    with disk.open("r+b") as file:
        file.seek(11 * MIB)
        file.write(b"changed")
    await pushed(repository, "two", disk, piece=PIECE)
    before.seen.clear()
    called = await tart_beside(home, "pull", "--insecure", "--format", "json", named(repository, "two"))
    assert len(blobs_got(before)) == 1 + 2  # one piece, the config and the firmware variables
    assert json.loads(called.out.splitlines()[-1])["reused"] > 10 * MIB
    assert same(cached_disk(home, named(repository, "two")), disk)


async def test_a_stacked_image_is_refused_after_its_manifest(repository: Repository, before: Front, home: Path) -> None:
    for blob in stacked_blobs():
        await push_blob(repository, blob_descriptor(OCI_CONFIG, blob), from_bytes(blob))
    await repository.put_manifest("stacked", stacked_manifest().encoded())
    before.seen.clear()
    for words in (["clone", named(repository, "stacked"), "vm"], ["pull", named(repository, "stacked")]):
        called = await tart_beside(home, words[0], "--insecure", *words[1:])
        assert called.code == 1
        assert "has a stacked disk, which only macOS 27" in called.err
    assert {one.path.rsplit("/", 2)[1] for one in before.seen} == {"manifests"}
    assert not (home / "vms").exists()
    assert cache_of(home).names() == []


async def test_a_macos_image_can_be_kept_but_not_run(repository: Repository, disk: Path, home: Path) -> None:
    await pushed(repository, "one", disk, piece=PIECE, config=DARWIN.encode())
    assert (await tart_beside(home, "clone", "--insecure", named(repository), "mac")).code == 0
    assert json.loads((home / "vms" / "mac" / "config.json").read_text())["hardwareModel"] == "aA=="
    assert "mac" in tart(home, "list", "--quiet").out
    called = tart(home, "run", "--no-graphics", "mac")
    assert called.code == 1
    assert "macOS guest" in called.err


async def test_what_cannot_be_cloned(repository: Repository, disk: Path, home: Path) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    called = await tart_beside(home, "clone", "--insecure", named(repository, "nope"), "vm")
    assert called.code == 1
    assert "nope" in called.err
    assert (await tart_beside(home, "clone", named(repository), "a/b")).code == 64
    assert not (home / "vms").exists()


async def test_deleting_and_collecting_beside_it_breaks_no_clone(
    repository: Repository, disk: Path, home: Path, tmp_path: Path
) -> None:
    await pushed(repository, "one", disk, piece=PIECE)
    name = named(repository)
    codes: list[int] = []

    async def clone(number: int) -> None:
        codes.append((await tart_beside(home, "clone", "--insecure", name, f"vm{number}")).code)

    async def remove() -> None:
        for words in (["delete", name], ["prune", "--gc"]) * 2:
            assert (await tart_beside(home, *words)).code in (0, 1, 2)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(clone, number)
        tasks.start_soon(remove)
    assert codes == [0, 0, 0]
    for number in range(3):
        assert same(flat(home, f"vm{number}", tmp_path / f"{number}.img"), disk)


async def test_killed_at_any_moment_there_is_the_whole_vm_or_none(
    repository: Repository, tmp_path: Path, home: Path
) -> None:
    disk = disk_file(tmp_path / "disk.img", 4 * MIB, {0: NOISE[: 3 * MIB]})
    await pushed(repository, "one", disk, piece=PIECE)
    name = named(repository)
    await tart_beside(home, "pull", "--insecure", name)
    store, vm = VmStore(Home(home)), home / "vms" / "vm"
    for point in deaths(lambda: clone_image(store, parse(name), "vm")):
        if vm.exists():
            assert same(flat(home, "vm", tmp_path / "flat.img"), disk), f"another disk after point {point}"
            assert origin.read(vm), f"no origin after point {point}"
            store.delete("vm")
        assert same(cached_disk(home, name), disk), f"a changed image after point {point}"
    assert same(flat(home, "vm", tmp_path / "flat.img"), disk)


@pytest.mark.needs_root
def test_a_cache_on_another_file_system_is_copied_from_and_said_so(home: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "small.img", 64 * MIB, "mkfs.ext4", "-q", "-m", "0") as point:
        home.mkdir()
        (home / "cache").symlink_to(point)
        name, content = "ghcr.io/org/vm:one", NOISE[: 4 * MIB]
        put(ImageCache(Home(home).prepared()), name, 1, content)
        assert tart(home, "clone", name, "vm").err == "copied 4 MB of disk, which could not be shared\n"
        assert (home / "vms" / "vm" / "disk.img").read_bytes() == content
        assert tart(home, "delete", name).code == 0
        assert list(point.glob("tmp/*")) == []


def test_a_local_clone_is_told_to_programs_as_well(home: Path) -> None:
    tart(home, "create", "--linux", "--disk-size", "1", "debian")
    assert json.loads(tart(home, "clone", "--format", "json", "debian", "x").out)["result"] == "cloned"
    assert tart(home, "clone", "--concurrency", "0", "debian", "y").code == 64
