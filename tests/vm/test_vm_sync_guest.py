"""`tart run --dir=…:sync` in a whole guest: in at the start, back at every kind of end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from vm_lab import BACKGROUND, Lab, leaving_nobody

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("from the host\n")
    (folder / "script").write_text("#!/bin/sh\necho ran\n")
    (folder / "script").chmod(0o755)
    return folder


def started(lab: Lab, *dirs: str) -> str:
    return lab.done("run", "debian", *BACKGROUND, *(f"--dir={value}" for value in dirs), timeout=200)


def test_it_goes_in_and_comes_back_at_every_end(suspended_debian: Lab, folder: Path) -> None:
    lab = suspended_debian
    with leaving_nobody():
        started(lab, f"src:{folder}:sync", f"in:{folder}:sync,ro")
        lab.sh("echo never > /mnt/shared/in/never", "debian")
        assert lab.sh("cd /mnt/shared/src; ./script; cat sub/file; stat -c %U . sub script", "debian").split("\n") == [
            "ran", "from the host", "admin", "admin", "admin"
        ]  # fmt: skip
        assert "3 copied into the guest" in lab.done("logs", "debian")

        lab.sh("cd /mnt/shared/src; echo one > made; rm script; ln -s made link", "debian")
        (folder / "later").write_text("later\n")
        assert lab.done("sync", "debian").splitlines() == [
            f"{folder}: 3 brought from the guest, 1 copied into it",
            f"{folder}: 0 brought from the guest, 4 copied into it",
        ]
        assert sorted(path.name for path in folder.iterdir()) == ["later", "link", "made", "sub"]
        assert (folder / "made").stat().st_uid == os.geteuid()
        assert lab.sh("cat /mnt/shared/src/later", "debian") == "later"

        lab.sh("echo suspended > /mnt/shared/src/made", "debian")
        lab.done("suspend", "debian")
        assert lab.done("wait", "debian", timeout=120).startswith("suspended")
        assert (folder / "made").read_text() == "suspended\n"

        (folder / "later").write_text("while it was away\n")
        started(lab, f"src:{folder}:sync")
        assert lab.sh("cat /mnt/shared/src/later", "debian") == "while it was away"
        lab.sh("echo terminated > /mnt/shared/src/made", "debian")
        os.kill(lab.supervisor("debian"), signal.SIGTERM)
        assert lab.done("wait", "debian", timeout=60).startswith("stopped by user")
        assert (folder / "made").read_text() == "terminated\n"


def test_a_guest_that_powers_itself_off_brings_its_changes(suspended_debian: Lab, folder: Path) -> None:
    lab = suspended_debian
    with leaving_nobody():
        started(lab, f"{folder}:sync")
        lab.sh("cd /mnt/shared/project; echo late > made; sudo -n true; rm -r sub", "debian")
        lab.done("exec", "--user", "root", "--detach", "debian", "systemctl", "poweroff")
        assert lab.done("wait", "debian", timeout=150).startswith("guest shut down")
    assert (folder / "made").read_text() == "late\n"
    assert not (folder / "sub").exists()
