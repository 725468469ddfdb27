"""The root of a guest grows with its disk: the program that does it, on disks of this host that it takes for roots.

ext4 grows in `tests/vm/test_vm_agent.py`, in a guest: here it would take a right that root in a container lacks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tartlet.guest.own_agent import grow_root
from tartlet.guest.own_agent.tart_agent import RootGrower

pytestmark = pytest.mark.needs_root

MIB = 1 << 20
TOOLS = ("sfdisk", "partx", "xfs_growfs", "btrfs", "resize2fs")


PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@dataclass(frozen=True, kw_only=True)
class GrowingDisk:
    """A mounted file system on the second partition of a loop device, or on the whole of it."""

    image: Path
    device: str
    mount_point: Path
    holder: int
    """The process in whose mount namespace it is."""

    def make_larger(self, size: int) -> None:
        os.truncate(self.image, size)
        run("losetup", "--set-capacity", self.device)

    def seen(self) -> Path:
        """Where the file system is seen from here."""
        return Path(f"/proc/{self.holder}/root{self.mount_point}")

    def known(self) -> int:
        """MiB that the file system knows of."""
        told = os.statvfs(self.seen())
        return told.f_blocks * told.f_frsize // MIB

    def grown(self, path: str = PATH, switch: str = grow_root.SWITCH) -> tuple[int, str]:
        """Run the program; its exit status and what it said."""
        script = f"import runpy, sys; sys.argv[0] = 'x'; module = runpy.run_path({grow_root.__file__!r})"
        script += f"; module['main'].__globals__['SWITCH'] = {switch!r}; sys.exit(module['main'](sys.argv[1:]))"
        words = entering(self.holder, sys.executable, "-I", "-c", script, str(self.mount_point))
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={"PATH": path})
        return done.returncode, done.stderr


def run(*words: str | Path, said: str = "") -> str:
    environment = {**os.environ, "PATH": PATH}
    done = subprocess.run(words, input=said, capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def entering(holder: int, *words: str) -> list[str]:
    """Words that run in the mount namespace of a process."""
    return ["/usr/bin/nsenter", f"--mount=/proc/{holder}/ns/mnt", "--", *words]


@contextmanager
def mounts_of_its_own() -> Generator[int]:
    """A process with a mount namespace: whatever copies that of the system does not keep our disk busy."""
    words = ["unshare", "--mount", "--propagation=private", "sh", "-c", "echo ready; exec cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"ready\n"
        yield holder.pid
        assert holder.stdin
        holder.stdin.close()


@contextmanager
def growing(folder: Path, kind: str, table: str | None, size: int = 400) -> Generator[GrowingDisk]:
    """`table` is what sfdisk(8) reads, and the file system is on the second partition; None for no table at all."""
    if shutil.which(f"mkfs.{kind}", path=PATH) is None:
        pytest.skip(f"needs mkfs.{kind}")
    image, point = folder / "disk.img", folder / "mounted"
    point.mkdir()
    image.touch()
    os.truncate(image, size * MIB)
    with loop_device(image, table) as device, mounts_of_its_own() as holder:
        part = device if table is None else f"{device}p2"
        run(f"mkfs.{kind}", "-q", part)
        run(*entering(holder, "mount", part, str(point)))
        yield GrowingDisk(image=image, device=device, mount_point=point, holder=holder)


@contextmanager
def loop_device(image: Path, table: str | None) -> Generator[str]:
    if table is not None:
        run("sfdisk", "--quiet", image, said=table)
    device = run("losetup", "--find", "--show", image).strip()
    try:
        if table is not None:
            run("partx", "--add", device)
        yield device
    finally:
        if table is not None:
            run("partx", "--delete", device)
        run("losetup", "--detach", device)


@pytest.fixture
def only_sfdisk(tmp_path: Path) -> str:
    """A PATH without growpart."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool, path=PATH):
            (folder / tool).symlink_to(found)
    return str(folder)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
@pytest.mark.parametrize("label", ["gpt", "dos"])
@pytest.mark.parametrize("tool", ["growpart", "sfdisk"])
def test_the_last_partition_and_its_file_system_grow(
    tmp_path: Path, only_sfdisk: str, kind: str, label: str, tool: str
) -> None:
    if tool == "growpart" and shutil.which("growpart") is None:
        pytest.skip("needs growpart")
    with growing(tmp_path, kind, f"label: {label}\nsize=16MiB\n,\n") as disk:
        (disk.seen() / "file").write_text("kept")
        assert disk.known() < 384
        disk.make_larger(700 * MIB)
        code, said = disk.grown(only_sfdisk if tool == "sfdisk" else PATH)
        assert code == 0, said
        assert disk.known() > 600
        assert "grew from" in said
        assert (disk.seen() / "file").read_text() == "kept"
        assert "No errors detected" in run("sfdisk", "--verify", disk.device)
        assert disk.grown() == (0, "")


def test_a_file_system_without_a_partition_grows(tmp_path: Path) -> None:
    with growing(tmp_path, "xfs", None) as disk:
        disk.make_larger(700 * MIB)
        assert disk.grown()[0] == 0
        assert disk.known() > 600


def test_what_is_behind_the_partition_is_not_touched(tmp_path: Path) -> None:
    with growing(tmp_path, "xfs", "label: gpt\nsize=16MiB\nsize=340MiB\n,\n") as disk:
        before = run("sfdisk", "--dump", disk.device)
        disk.make_larger(700 * MIB)
        assert disk.grown() == (0, "")
        assert run("sfdisk", "--dump", disk.device) == before


def test_nothing_happens_where_that_is_wanted(tmp_path: Path) -> None:
    with growing(tmp_path, "xfs", "label: gpt\nsize=16MiB\n,\n") as disk:
        disk.make_larger(700 * MIB)
        assert disk.grown(switch="/etc/passwd") == (0, "")
        assert disk.known() < 384


def test_a_guest_without_the_tools_is_told_so(tmp_path: Path) -> None:
    with growing(tmp_path, "xfs", "label: gpt\nsize=16MiB\n,\n") as disk:
        disk.make_larger(700 * MIB)
        code, said = disk.grown(str(tmp_path))
        assert (code, disk.known() < 384) == (1, True)
        assert "neither growpart nor sfdisk is installed" in said


def test_a_folder_that_is_no_root_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert grow_root.main([str(tmp_path)]) == 1
    assert f"nothing is mounted at {tmp_path}" in capfd.readouterr().err


class Asked:
    """A grower whose program counts how often it runs."""

    def __init__(self, folder: Path) -> None:
        self.count, program = folder / "count", folder / "program"
        program.write_text(f"#!/bin/sh\necho >> {self.count}\n")
        program.chmod(0o755)
        self.grower = RootGrower(str(program))

    def runs(self, expected: int) -> None:
        """What the agent's loop does, until the program has run so often."""
        deadline = time.monotonic() + 5
        while not self.count.exists() or len(self.count.read_text()) < expected:
            assert time.monotonic() < deadline
            self.grower.hear()
            self.grower.go_on()
            with suppress(ChildProcessError):
                self.grower.ended(os.waitpid(-1, os.WNOHANG)[0])
            time.sleep(0.01)


def test_the_program_runs_at_the_start_and_when_a_disk_gets_larger(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    asked.runs(1)
    with growing(tmp_path, "xfs", None) as disk:
        disk.make_larger(500 * MIB)
        asked.runs(2)
    asked.grower.news.close()
