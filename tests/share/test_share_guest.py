"""Folders as a real guest sees them, for each virtiofsd that this host has."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from booted import Booted, booted, in_guest
from tartlet.errors import ToolMissing
from tartlet.share import virtiofsd
from tartlet.share.arguments import grouped
from tartlet.share.serving import SharedFolders, ShareFailed, serving

FILES = 10_000


class Guest:
    """A booted tiny guest, and its folders."""

    def __init__(self, machine: Booted, folders: SharedFolders) -> None:
        self._machine, self.folders = machine, folders

    async def sh(self, script: str) -> str:
        """What a script of root prints, errors too."""
        return (await in_guest(self._machine.agent, f"exec 2>&1; {script}")).strip()

    async def admin(self, script: str) -> str:
        """The same of the ordinary user."""
        return await self.sh(f"su admin -s /bin/sh -c '{script}'")


@asynccontextmanager
async def guest_with(tmp_path: Path, values: Sequence[str]) -> AsyncGenerator[Guest]:
    """The tiny guest, running, with these `--dir` values."""
    for name in ("tmp", "vm"):
        (tmp_path / name).mkdir()
    async with (
        serving(grouped(values), tmp_path / "tmp") as folders,
        booted(tmp_path / "vm", more=folders.devices) as machine,
    ):
        await machine.monitor.cont()
        machine.agent.settimeout(100)  # it boots first
        yield Guest(machine, folders)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("kind")
async def test_a_guest_works_in_its_folders(tmp_path: Path) -> None:
    work, kept, alone = (tmp_path / name for name in ("work", "kept", "alone"))
    for folder in (work, kept, alone):
        folder.mkdir()
        (folder / "hello").write_text(f"from {folder.name}\n")
    many = alone / "many"
    many.mkdir()
    for number in range(FILES):
        (many / f"{number}").write_text("x")
    values = [f"w:{work}", f"k:{kept}:ro", f"{alone}:tag=alone"]
    async with guest_with(tmp_path, values) as guest:
        assert await guest.sh("cd /mnt/shared && ls && cat */hello") == "k\nw\nfrom kept\nfrom work"
        await guest.sh("mkdir /mnt/alone && mount -t virtiofs alone /mnt/alone")
        assert await guest.sh("ls /mnt/alone") == "hello\nmany"

        # Whoever makes a file in the guest, on the host it is the caller's, and in the guest the user's.
        await guest.sh("echo root > /mnt/shared/w/by-root; mkdir /mnt/alone/d; ln -s d /mnt/alone/l")
        assert await guest.admin("cd /mnt/shared/w && echo admin > by-admin && echo more >> by-root") == ""
        assert await guest.sh("cd /mnt/shared/w && stat -c '%u:%g %n' *") == "\n".join(
            f"1000:1000 {name}" for name in ("by-admin", "by-root", "hello")
        )
        assert (work / "by-root").read_text() == "root\nmore\n"
        assert {path.stat().st_uid for path in work.iterdir()} == {os.geteuid()}
        assert os.readlink(alone / "l") == "d"
        assert await guest.sh("cd /mnt/shared/w; chown 5:5 hello; stat -c %u hello") == "1000"
        assert "not permitted" in await guest.sh("cp /bin/busybox /mnt/alone/b; chmod 4755 /mnt/alone/b")
        assert "not permitted" in await guest.sh("mknod /mnt/alone/disk b 254 0")

        # What is read-only stays as it is, and so does the root that holds the names.
        changes = ("echo x > k/new", "rm k/hello", "mv k/hello k/moved", "chmod 777 k", "touch new", "rm -r k")
        said = await guest.sh(f"cd /mnt/shared; {'; '.join(f'({change})' for change in changes)}")
        assert said.count("Read-only file system") == len(changes), said
        assert [path.name for path in kept.iterdir()] == ["hello"]

        # Many files, and what the host changes meanwhile.
        assert await guest.sh("cd /mnt/alone/many && ls -ln | grep -c 1000 && cat 12* | wc -c") == f"{FILES}\n111"
        (work / "later").write_text("from the host\n")
        assert await guest.sh("sleep 1.1; cat /mnt/shared/w/later") == "from the host"
        await guest.sh("cd /mnt/alone/many && rm 12* && sync")
        assert len(list(many.iterdir())) == FILES - 111


@pytest.mark.usefixtures("kind")
async def test_a_server_that_ends_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    async with serving(grouped([f"{folder}:tag=a", f"{folder}:tag=b"]), tmp_path) as folders:
        (_, _), (_, other) = folders._servers
        os.kill(other.pid, 9)
        lost = await folders.lost()
    assert str(folder) in str(lost)


@pytest.mark.usefixtures("kind")
async def test_a_folder_that_is_gone_when_its_server_starts(tmp_path: Path) -> None:
    with pytest.raises(ShareFailed, match="No such file or directory"):
        async with serving(grouped([str(tmp_path / "gone")]), tmp_path):
            pytest.fail("it is served")


def test_a_host_without_virtiofsd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(virtiofsd, "_PLACES", ())
    with pytest.raises(ToolMissing, match="virtiofsd") as told:
        virtiofsd.find([tmp_path])
    assert "apt install virtiofsd" in str(told.value.hint)
