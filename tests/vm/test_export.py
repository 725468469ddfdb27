"""`tart export` and `tart import`, with real VMs and disks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cached_images import CONFIG, digest, home_in, put
from command import TART, Called, surroundings, tart
from disk_files import guest_writes, image_format, mounted, run
from killed import deaths
from tartlet.archive.write import InMemory, write_archive
from tartlet.host import access_time, scratch
from tartlet.host.paths import Home
from tartlet.image.cache.cache import ImageCache
from tartlet.units import MIB
from tartlet.vm.images.export import export
from tartlet.vm.images.import_archive import import_archive
from tartlet.vm.stored.store import VmStore
from vm_lab import Lab

SUPERVISE = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plain` and `clone` on overlays above one base, `raw` on a raw disk; all wrote something."""
    home = tmp_path_factory.mktemp("made") / "home"
    for name, at in (("plain", 0), ("raw", 500 * MIB)):
        assert tart(home, "create", "--linux", "--disk-size", "1", name).code == 0
        guest_writes(home / "vms" / name, at, 3 * MIB, 1)
    assert tart(home, "clone", "plain", "clone").code == 0
    guest_writes(home / "vms" / "clone", 2 * MIB, MIB, 2)
    return home


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Path:
    target = tmp_path / "home"
    run("cp", "-a", "--sparse=always", made_home, target)
    return target


@contextmanager
def running(home: Path, name: str) -> Generator[None]:
    config = home / "vms" / name / "config.json"
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"held\n"
        yield
        process.stdin.close()


def config(home: Path, name: str) -> dict[str, object]:
    document: dict[str, object] = json.loads((home / "vms" / name / "config.json").read_text())
    return document


def names(home: Path) -> list[str]:
    return VmStore(Home(home)).names()


@pytest.mark.parametrize("name", ["raw", "plain", "clone"])
def test_a_vm_comes_back_flat_sparse_and_equal(home: Path, tmp_path: Path, name: str) -> None:
    assert tart(home, "export", name, str(tmp_path / "vm.tvm")) == Called(0, "exporting...\n", "")
    assert tart(home, "import", str(tmp_path / "vm.tvm"), "back") == Called(0, "importing...\n", "")
    source, back = home / "vms" / name, home / "vms" / "back"
    assert image_format(back / "disk.img") == "raw"
    run("qemu-img", "compare", source / "disk.img", back / "disk.img")
    assert os.stat(back / "disk.img").st_blocks * 512 <= 4 * MIB
    assert (back / "nvram.bin").read_bytes() == (source / "nvram.bin").read_bytes()
    assert sorted(os.listdir(back)) == ["config.json", "disk.img", "nvram.bin"]
    before, after = config(home, name), config(home, "back")
    assert after.pop("macAddress") != before.pop("macAddress")
    assert after.pop("diskFormat") == "raw"
    before.pop("diskFormat")
    assert after == before
    assert os.stat(tmp_path / "vm.tvm").st_mode & 0o777 == 0o644
    assert os.path.getsize(tmp_path / "vm.tvm") < 2 * MIB
    assert os.listdir(home / "tmp") == []


def test_an_address_that_is_free_and_a_saved_machine_are_kept(home: Path, tmp_path: Path) -> None:
    (home / "vms" / "raw" / "state.vzvmsave").write_bytes(b"saved machine")
    before = config(home, "raw")["macAddress"]
    assert tart(home, "export", "raw", str(tmp_path / "vm.tvm")).code == 0
    assert tart(home, "import", str(tmp_path / "vm.tvm"), "second").code == 0
    assert config(home, "second")["macAddress"] != before
    assert not (home / "vms" / "second" / "state.vzvmsave").exists()
    assert tart(home, "delete", "raw").code == 0
    for _ in range(2):
        assert tart(home, "import", str(tmp_path / "vm.tvm"), "raw").code == 0
        assert config(home, "raw")["macAddress"] == before
        assert (home / "vms" / "raw" / "state.vzvmsave").read_bytes() == b"saved machine"


def asked(home: Path, folder: Path, answer: bytes) -> Called:
    done = subprocess.run(
        [TART, "export", "raw"], input=answer, capture_output=True, check=False, cwd=folder, env=surroundings(home)
    )
    return Called(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_only_the_default_file_asks_before_it_is_replaced(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "raw.tvm"
    assert asked(home, tmp_path, b"") == Called(0, "exporting...\n", "")
    target.write_bytes(b"precious")
    for answer in (b"y\n", b"YES\n", b"yes \n", b""):
        told = asked(home, tmp_path, answer)
        assert (told.code, told.err) == (0, "")
        assert "exporting" not in told.out
        assert target.read_bytes() == b"precious"
    assert asked(home, tmp_path, b"yes\n").code == 0
    assert target.read_bytes()[:4] == b"pbze"
    target.write_bytes(b"precious")
    assert tart(home, "export", "raw", str(target)) == Called(0, "exporting...\n", "")
    assert target.read_bytes()[:4] == b"pbze"
    assert sorted(os.listdir(tmp_path)) == ["home", "raw.tvm"]


def test_a_cached_image_is_exported(home: Path, tmp_path: Path) -> None:
    disk = b"image" * MIB
    made = put(ImageCache(Home(home)), "reg.example/org/vm:latest", 1, disk)
    access_time.mark(made.path, 1_000_000_000)
    assert tart(home, "export", "reg.example/org/vm", str(tmp_path / "vm.tvm")).code == 0
    assert access_time.of(made.path) > 1_700_000_000
    assert tart(home, "import", str(tmp_path / "vm.tvm"), "back").code == 0
    assert (home / "vms" / "back" / "disk.img").read_bytes() == disk
    told = tart(home, "export", f"reg.example/org/vm@{digest(1)}")
    assert told.code == 1
    assert "tart export NAME PATH" in told.err


def stacked(home: Path) -> None:
    folder = home / "vms" / "stacked"
    shutil.copytree(home / "vms" / "raw", folder)
    (folder / "disk.img").unlink()
    (folder / "overlay.asif").write_bytes(b"shdw")
    (folder / "manifest.json").write_bytes(b"{}")


def test_what_cannot_be_exported_leaves_no_file(home: Path, tmp_path: Path) -> None:
    stacked(home)
    for words, code in (
        (["nope"], 2),
        (["reg.example/never/pulled"], 2),
        (["nope", str(tmp_path / "x.tvm")], 2),
        (["stacked", str(tmp_path / "x.tvm")], 1),
        (["raw", str(tmp_path / "no" / "x.tvm")], 1),
        (["raw", "/dev/full"], 1),
    ):
        told = tart(home, "export", *words)
        assert told.code == code, told
        assert "Traceback" not in told.err
    assert os.listdir(tmp_path) == ["home"]


def test_what_cannot_be_imported_leaves_no_vm(home: Path, tmp_path: Path) -> None:
    assert tart(home, "export", "raw", str(tmp_path / "whole.tvm")).code == 0
    (tmp_path / "bad.tvm").write_bytes(b"pbze")
    (tmp_path / "half.tvm").write_bytes((tmp_path / "whole.tvm").read_bytes()[:-100])
    for words, code in (
        ([str(tmp_path / "whole.tvm"), "a/b"], 64),
        ([str(tmp_path / "whole.tvm"), ""], 64),
        ([str(tmp_path / "nope.tvm"), "new"], 1),
        ([str(tmp_path), "new"], 1),
        ([str(tmp_path / "bad.tvm"), "new"], 1),
        ([str(tmp_path / "half.tvm"), "new"], 1),
    ):
        told = tart(home, "import", *words)
        assert told.code == code, told
        assert "Traceback" not in told.err
    assert names(home) == ["clone", "plain", "raw"]
    assert os.listdir(home / "tmp") == []


def test_an_archive_without_what_a_vm_needs_is_refused(home: Path, tmp_path: Path) -> None:
    told = (home / "vms" / "raw" / "config.json").read_bytes()
    good = {"config.json": told, "disk.img": b"disk" * 999, "nvram.bin": b"n"}
    cases = [{name: good[name] for name in good if name != missing} for missing in good]
    cases += [good | {"config.json": b"{"}, good | {"disk.img": b""}]
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", tmp_path / "backed")
    config = told.replace(b'"raw"', b'"qcow2"')
    assert config != told
    cases.append(good | {"config.json": config, "disk.img": (tmp_path / "backed").read_bytes()})
    for files in cases:
        with (tmp_path / "bad.tvm").open("wb") as archive:
            write_archive(archive.write, [(name, InMemory(content)) for name, content in files.items()])
        refused = tart(home, "import", str(tmp_path / "bad.tvm"), "new")
        assert (refused.code, refused.out) == (1, "importing...\n"), files.keys()
        assert not (home / "vms" / "new").exists()
        assert os.listdir(home / "tmp") == []


def test_a_running_vm_is_exported_as_it_is_and_never_replaced(home: Path, tmp_path: Path) -> None:
    for name in ("raw", "clone"):
        with running(home, name):
            told = tart(home, "export", name, str(tmp_path / f"{name}.tvm"))
            assert told.code == 0
            assert "power cut" in told.err
            refused = tart(home, "import", str(tmp_path / f"{name}.tvm"), name)
            assert (refused.code, f'VM "{name}" is running' in refused.err) == (1, True)
        assert tart(home, "import", str(tmp_path / f"{name}.tvm"), "back").code == 0
        run("qemu-img", "compare", home / "vms" / "back" / "disk.img", home / "vms" / name / "disk.img")


def test_a_pipe_can_be_written_to(home: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "vm.tvm").open("wb") as target, subprocess.Popen(["cat", tmp_path / "pipe"], stdout=target):
        assert tart(home, "export", "raw", str(tmp_path / "pipe")).code == 0
    assert tart(home, "import", str(tmp_path / "vm.tvm"), "back").code == 0


@pytest.mark.needs_root
def test_a_full_disk_leaves_nothing(home: Path, tmp_path: Path) -> None:
    assert tart(home, "export", "plain", str(tmp_path / "vm.tvm")).code == 0
    with mounted(tmp_path / "small.img", 8 * MIB, "mkfs.ext4", "-q") as point:
        free = os.statvfs(point)
        (point / "filler").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 2 * MIB)))
        told = tart(point / "home", "import", str(tmp_path / "vm.tvm"), "vm")
        assert told.code == 1
        assert "no room" in told.err
        assert os.listdir(point / "home" / "tmp") == []
        assert names(point / "home") == []


def tiny(folder: Path) -> VmStore:
    """A home with the VM `tiny`."""
    home = home_in(folder)
    vm = home.vms / "tiny"
    vm.mkdir(parents=True)
    (vm / "config.json").write_bytes(CONFIG)
    (vm / "disk.img").write_bytes(b"disk" * 50_000)
    (vm / "nvram.bin").write_bytes(b"nvram")
    return VmStore(home)


def test_killed_at_any_point_the_file_is_the_old_or_the_new(tmp_path: Path) -> None:
    store, target = tiny(tmp_path), tmp_path / "vm.tvm"
    export(store, "tiny", target)
    whole = target.stat().st_size
    target.write_bytes(b"old")
    for _ in deaths(lambda: export(store, "tiny", target)):
        assert target.read_bytes() == b"old" or target.stat().st_size == whole
        target.write_bytes(b"old")


def test_killed_at_any_point_the_vm_is_whole_or_absent(tmp_path: Path) -> None:
    store, target = tiny(tmp_path), tmp_path / "vm.tvm"
    export(store, "tiny", target)
    for _ in deaths(lambda: import_archive(store, target, "new")):
        if os.path.lexists(store.folder("new").path):
            assert store.find("new").disk_path.read_bytes() == b"disk" * 50_000
            store.delete("new")
        scratch.collect(store.home.tmp)
        assert os.listdir(store.home.tmp) == []
        assert store.names() == ["tiny"]


def test_a_suspended_guest_goes_on_after_the_journey(suspended: Lab, tmp_path: Path) -> None:
    suspended.done("export", "mini", str(tmp_path / "mini.tvm"))
    suspended.done("delete", "mini")
    suspended.done("import", str(tmp_path / "mini.tvm"), "mini")
    assert suspended.state() == "suspended"
    boot = "cat /proc/sys/kernel/random/boot_id"
    with suspended.running():
        assert not suspended.vm().state_path.exists()
        assert suspended.sh(boot)
        assert float(suspended.sh("cut -d' ' -f1 /proc/uptime")) > 1
