"""Where a VM lives and where the command is called from make no difference."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from command import TART, surroundings
from namespaces import Namespace
from vm_lab import BACKGROUND, Lab, leaving_nobody, made


def test_a_home_with_a_long_and_odd_path(tmp_path: Path, network: Namespace) -> None:
    home = tmp_path / ("a, b=ü%" + "x" * 120) / ("'quoted' " + "y" * 120) / "home"
    assert len(os.fsencode(home)) > 300
    with leaving_nobody():
        lab = made(home, network)
        try:
            lab.done("run", "mini", *BACKGROUND, timeout=100)
            boot = lab.sh("cat /proc/sys/kernel/random/boot_id")
            assert lab.done("ip", "mini", "--wait", "20").startswith("127.")
            lab.done("suspend", "mini")
            assert lab.done("wait", "mini").startswith("suspended")
            lab.done("run", "mini", *BACKGROUND)
            assert lab.sh("cat /proc/sys/kernel/random/boot_id") == boot
            assert "READY" in lab.done("logs", "mini", "--serial")
            lab.done("stop", "mini")
            lab.done("clone", "mini", "copy")
            lab.done("delete", "mini", "copy")
        finally:
            lab.end()
    shutil.rmtree(home)


def test_a_folder_that_is_deleted_under_the_command(suspended: Lab, tmp_path: Path) -> None:
    words = [f"'{word}'" for word in suspended.network.words(TART, "run", "mini", *BACKGROUND)]
    script = f"mkdir '{tmp_path}/gone' && cd '{tmp_path}/gone' && rmdir '{tmp_path}/gone' && exec {' '.join(words)}"
    with leaving_nobody():
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=False, env=surroundings(suspended.home)
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert suspended.sh("echo here") == "here"
        suspended.done("suspend", "mini")
        assert suspended.done("wait", "mini").startswith("suspended")


def test_a_relative_home(suspended: Lab, tmp_path: Path) -> None:
    relative = Lab(home=Path("home"), network=suspended.network)
    with leaving_nobody():
        for words, out in (
            (("run", "mini", *BACKGROUND), ""),
            (("exec", "mini", "echo", "here"), "here\n"),
            (("suspend", "mini"), ""),
            (("wait", "mini"), "suspended (exit code 0)\n"),
            (("run", "mini", *BACKGROUND), ""),
            (("stop", "mini"), ""),
        ):
            called = relative.tart(*words, cwd=tmp_path)
            assert (called.code, called.out) == (0, out), called
    assert suspended.state() == "stopped"
