"""Pushing whole VMs: what goes into the image, what has to be sent, and what happens to the VM and the cache."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from disk_files import guest_sees, guest_writes, run
from registries import Front, real_registry
from tartlet.disk.clone import stand_on
from tartlet.host.copying import sparse_copy
from tartlet.host.paths import Home
from tartlet.image import origin
from tartlet.image.cache.cache import ImageCache
from tartlet.image.cache.cached_image import CachedImage, ImageMissing
from tartlet.image.format.layout import read_layout
from tartlet.image.format.manifest import read_manifest
from tartlet.image.format.reference import ImageName
from tartlet.image.pull.pull import pull
from tartlet.image.push.plan import DigestChosen
from tartlet.image.registry.registry import opened
from tartlet.units import MIB
from tartlet.vm.images.push import PushOptions, push
from tartlet.vm.images.push_source import StackedVm
from tartlet.vm.stored import config_file
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import VmConfig
from tartlet.vm.stored.store import VmMissing, VmRunning, VmStore

BLOBS, UPLOADS, MANIFESTS = r"/blobs/sha256", r"/blobs/uploads/", r"/manifests/"
PIECE = 2 * MIB
OPTIONS = PushOptions(insecure=True, piece_size=PIECE)
NOISE = random.Random(9).randbytes(7 * MIB)
HOLDER = "import sys; from tartlet.host.locks import lock_holder; print(lock_holder(sys.argv[1]))"


@pytest.fixture
def name(before: Front) -> ImageName:
    return ImageName(before.host, f"tests/vm-{os.urandom(6).hex()}", tag="one")


@pytest.fixture
def store(tmp_path: Path) -> VmStore:
    """A home with the stopped VM `vm`: eleven MiB and a bit, seven of noise."""
    store = VmStore(Home(tmp_path / "home").prepared())
    with store.work_folder() as work:
        config_file.create(work / "config.json", VmConfig(arch="amd64", mac_address="7a:65:e4:3f:b2:01"))
        (work / "nvram.bin").write_bytes(b"variables")
        with (work / "disk.img").open("wb") as disk:
            disk.write(NOISE)
            disk.truncate(11 * MIB + 512)
        store.install(work, "vm")
    return store


async def pulled(name: ImageName, home: Path) -> CachedImage:
    async with opened(insecure=True) as registries:
        cache = ImageCache(Home(home).prepared())
        return (await pull(cache, registries.repository(name.host, name.namespace), name)).image


async def cloned(store: VmStore, name: ImageName, new: str, *, shares: bool) -> VmFolder:
    """A VM that was made of an image: on the image's disk, or with a copy of it."""
    image = await pulled(name, store.home.root)
    config = config_file.read(image.config_path)
    with store.work_folder() as work:
        (work / "nvram.bin").write_bytes(image.nvram_path.read_bytes())
        if shares:
            stand_on(image.disk_path, work)
        else:
            sparse_copy(image.disk_path, work / "disk.img")
        config_file.create(work / "config.json", config)
        origin.write(work, origin.Origin(name, image.digest), image.manifest())
        return store.install(work, new)


@contextmanager
def holding(config: Path) -> Generator[None]:
    """Another process has the lock, as a supervisor does."""
    hold = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX); print(1,flush=True); input()"
    words = [sys.executable, "-c", hold, os.fspath(config)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        yield
        holder.communicate(b"\n")


def sent(before: Front) -> int:
    return sum(one.body_size for one in before.seen if one.method == "PUT" and re.search(UPLOADS, one.path))


def tagged(name: ImageName, tag: str) -> ImageName:
    return ImageName(name.host, name.namespace, tag=tag)


async def test_a_vm_becomes_an_image_and_a_vm_again(store: VmStore, name: ImageName, tmp_path: Path) -> None:
    folder = store.folder("vm").path
    names = set(os.listdir(folder))
    result = await push(store, "vm", [name], OPTIONS)
    image = await pulled(name, tmp_path / "other")
    assert image.digest == result.digest
    assert image.disk_path.read_bytes() == (folder / "disk.img").read_bytes()
    assert image.nvram_path.read_bytes() == b"variables"
    assert config_file.read(image.config_path) == store.folder("vm").config()
    assert set(os.listdir(folder)) == names | {"last-push.json", "last-push-manifest.json"}
    assert os.listdir(store.home.tmp) == []
    again = await push(store, "vm", [name], OPTIONS)
    assert again.sent == 0
    manifests = [read_manifest(pushed.manifest) for pushed in (result, again)]
    assert manifests[0].layers == manifests[1].layers


async def test_the_next_push_under_any_name_sends_what_changed(
    store: VmStore, name: ImageName, before: Front, tmp_path: Path
) -> None:
    await push(store, "vm", [name], OPTIONS)
    with (store.folder("vm").path / "disk.img").open("r+b") as disk:
        disk.seek(5 * MIB)
        disk.write(b"changed")
    before.seen.clear()
    elsewhere = ImageName(name.host, f"{name.namespace}-elsewhere", tag="two")
    await push(store, "vm", [elsewhere], OPTIONS)
    assert sent(before) <= 1.3 * PIECE
    assert any("mount=" in one.query for one in before.seen)
    image = await pulled(elsewhere, tmp_path / "other")
    assert image.disk_path.read_bytes() == (store.folder("vm").path / "disk.img").read_bytes()


@pytest.mark.parametrize("shares", [True, False], ids=["on the image", "copy"])
async def test_a_vm_made_of_an_image_sends_what_its_guest_wrote(
    store: VmStore, name: ImageName, before: Front, tmp_path: Path, *, shares: bool
) -> None:
    await push(store, "vm", [name], OPTIONS)
    vm = await cloned(store, name, "clone", shares=shares)
    guest_writes(vm.path, 3 * MIB, 4096, 7)
    guest_writes(vm.path, 9 * MIB, 65536, 8)
    before.seen.clear()
    result = await push(store, "clone", [tagged(name, "two")], OPTIONS)
    assert sent(before) <= 1.3 * 2 * PIECE
    old, new = (
        [piece.blob for piece in read_layout(read_manifest(raw)).base.pieces]
        for raw in (origin.read_manifest(vm.path) or b"", result.manifest)
    )
    assert [place for place, layer in enumerate(new) if layer != old[place]] == [1, 4]
    assert (await pulled(tagged(name, "two"), tmp_path / "other")).disk_path.read_bytes() == guest_sees(vm.path)


async def test_a_frozen_disk_with_changes_is_not_taken_for_the_images(
    store: VmStore, name: ImageName, tmp_path: Path
) -> None:
    """A copy of the image's disk was written to, and then became the base of a clone."""
    from tartlet.vm.stored.clone import clone

    await push(store, "vm", [name], OPTIONS)
    vm = await cloned(store, name, "copy", shares=False)
    guest_writes(vm.path, MIB, 65536, 7)
    clone(store, "copy", "other")
    await push(store, "copy", [tagged(name, "two")], OPTIONS)
    assert (await pulled(tagged(name, "two"), tmp_path / "other")).disk_path.read_bytes() == guest_sees(vm.path)


async def test_a_vm_cannot_be_started_while_it_is_pushed(store: VmStore, name: ImageName) -> None:
    words = [sys.executable, "-c", HOLDER, os.fspath(store.folder("vm").config_path)]
    holders: set[int] = set()

    def look(_: object = None) -> None:
        holders.add(int(subprocess.run(words, capture_output=True, check=True, text=True).stdout))

    await push(store, "vm", [name], PushOptions(insecure=True, piece_size=16 * MIB, populate_cache=True), report=look)
    assert holders == {os.getpid()}
    look()
    assert holders == {os.getpid(), 0}


async def test_a_running_vm_is_refused_before_anything_is_asked(store: VmStore, name: ImageName, before: Front) -> None:
    with holding(store.folder("vm").config_path), pytest.raises(VmRunning):
        await push(store, "vm", [name], OPTIONS)
    assert before.seen == []


async def test_a_macos_vm_keeps_all_it_is(store: VmStore, name: ImageName, tmp_path: Path) -> None:
    vm = store.folder("vm")
    apple = {"ecid": "bm9uZQ==", "hardwareModel": "YS9i", "unknown": {"a": [1]}}
    config = VmConfig(os="darwin", arch="arm64", mac_address="7a:65:e4:3f:b2:01", disk_format="asif", other=apple)
    config_file.write(vm.config_path, config)
    (vm.path / "disk.img").write_bytes(b"shdw\0\0\0\1" + bytes(0x28) + (99).to_bytes(8) + bytes(12) + b"\x02\x00" * 99)
    result = await push(store, "vm", [name], OPTIONS)
    image = await pulled(name, tmp_path / "other")
    assert config_file.read(image.config_path) == config
    assert image.disk_path.read_bytes() == (vm.path / "disk.img").read_bytes()  # the file, not what its guest sees
    async with opened(insecure=True) as registries:
        repository = registries.repository(name.host, name.namespace)
        stub = await repository.read_blob(read_manifest(result.manifest).config)
    assert stub == (
        b'{"architecture":"arm64","config":{"Labels":{"org.cirruslabs.tart.disk.format":"asif"}},"os":"darwin"}'
    )


@pytest.mark.needs_root
async def test_a_disk_that_is_a_device_is_pushed_whole(store: VmStore, name: ImageName, tmp_path: Path) -> None:
    disk = store.folder("vm").disk_path
    disk.rename(tmp_path / "backing.img")
    loop = run("losetup", "--show", "-f", tmp_path / "backing.img").strip()
    try:
        disk.symlink_to(loop)
        await push(store, "vm", [name], OPTIONS)
    finally:
        run("losetup", "-d", loop)
    image = await pulled(name, tmp_path / "other")
    assert image.disk_path.read_bytes() == (tmp_path / "backing.img").read_bytes()


async def test_a_stacked_vm_is_refused(store: VmStore, name: ImageName, before: Front) -> None:
    folder = store.folder("vm").path
    (folder / "disk.img").rename(folder / "overlay.asif")
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(StackedVm, match='"vm" has a stacked disk, which needs macOS 27'):
        await push(store, "vm", [name], OPTIONS)
    assert before.seen == []


@pytest.mark.parametrize("overlay", [False, True], ids=["raw", "overlay"])
async def test_the_cache_has_what_was_pushed(
    store: VmStore, name: ImageName, before: Front, tmp_path: Path, *, overlay: bool
) -> None:
    source = "vm"
    if overlay:
        await push(store, "vm", [tagged(name, "origin")], OPTIONS)
        guest_writes((await cloned(store, tagged(name, "origin"), "clone", shares=True)).path, 3 * MIB, 65536, 7)
        source = "clone"
    names = [name, tagged(name, "two"), ImageName(name.host, f"{name.namespace}-elsewhere", tag="three")]
    filling = PushOptions(insecure=True, piece_size=PIECE, populate_cache=True)
    result = await push(store, source, names, filling)
    cache = ImageCache(store.home)
    images = [cache.find(one) for one in names]
    assert {image.digest for image in images} == {result.digest}
    assert len({os.stat(image.disk_path).st_ino for image in images}) == 1  # shared by the repositories
    for image in images:
        assert image.manifest() == result.manifest
        assert image.disk_path.read_bytes() == guest_sees(store.folder(source).path)
        assert sorted(os.listdir(image.path)) == ["config.json", "disk.img", "manifest.json", "nvram.bin"]
    other = await pulled(name, tmp_path / "other")
    for mine, theirs in ((images[0].config_path, other.config_path), (images[0].nvram_path, other.nvram_path)):
        assert mine.read_bytes() == theirs.read_bytes()
    before.seen.clear()
    cached = await push(store, str(names[2]), [tagged(names[2], "four"), tagged(name, "five")], filling)
    assert (cached.digest, cached.sent, sent(before)) == (result.digest, 0, 0)
    for one in (tagged(names[2], "four"), tagged(name, "five"), name):
        assert cache.find(one).digest == result.digest
    assert os.listdir(store.home.tmp) == []


@pytest.mark.parametrize("way", ["pulled", "pushed", "copied"])
async def test_an_image_with_labels_goes_to_another_registry_when_its_own_is_gone(
    store: VmStore, name: ImageName, tmp_path: Path, way: str
) -> None:
    (tmp_path / "gone").mkdir()
    async with real_registry(tmp_path / "gone") as gone:
        first = ImageName(gone, "a/b", tag="one")
        labelled = replace(OPTIONS, labels={"com.example/owner": "me"}, populate_cache=way != "pulled")
        result = await push(store, "vm", [first], labelled)
        if way == "pulled":
            await pulled(first, store.home.root)
        if way == "copied":
            await push(store, str(first), [tagged(first, "two"), ImageName(gone, "c/d", tag="one")], labelled)
            first = ImageName(gone, "c/d", tag="one")
    copied = await push(store, str(first), [name], OPTIONS)
    assert copied.digest == result.digest
    image = await pulled(name, tmp_path / "other")
    assert b"com.example" in image.oci_config_path.read_bytes()
    assert image.disk_path.read_bytes() == (store.folder("vm").path / "disk.img").read_bytes()


async def test_a_cached_image_with_a_damaged_manifest_is_copied_all_the_same(
    store: VmStore, name: ImageName, tmp_path: Path
) -> None:
    result = await push(store, "vm", [name], replace(OPTIONS, populate_cache=True))
    ImageCache(store.home).find(name).manifest_path.write_bytes(b'{"schemaVersion":2')
    elsewhere = ImageName(name.host, f"{name.namespace}-copy", tag="two")
    assert (await push(store, str(name), [elsewhere], OPTIONS)).digest == result.digest
    assert (await pulled(elsewhere, tmp_path / "other")).digest == result.digest


async def test_names_that_lead_nowhere_are_told(store: VmStore, name: ImageName, before: Front) -> None:
    with pytest.raises(VmMissing):
        await push(store, "nope", [name], OPTIONS)
    with pytest.raises(ImageMissing):
        await push(store, "localhost/not/here", [name], OPTIONS)
    with pytest.raises(DigestChosen):
        await push(store, "vm", [name.at_digest("sha256:" + 64 * "0")], OPTIONS)
    assert before.seen == []


async def test_a_damaged_note_is_no_trouble(store: VmStore, name: ImageName, tmp_path: Path) -> None:
    folder = store.folder("vm").path
    await push(store, "vm", [name], OPTIONS)
    for damage in (b"{}", b"\xff", b'{"schemaVersion":2}'):
        (folder / "last-push-manifest.json").write_bytes(damage)
        (folder / "origin.json").write_bytes(damage)
        await push(store, "vm", [tagged(name, "two")], OPTIONS)
    assert (await pulled(tagged(name, "two"), tmp_path / "o")).disk_path.read_bytes()[: len(NOISE)] == NOISE
