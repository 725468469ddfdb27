"""`tart run --dir` from end to end: a folder in a guest, and that nothing outlives the run however it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from leftovers import process_ids
from vm_lab import BACKGROUND, HEADLESS, Lab, is_child, kill, leaving_nobody, until, words_of


def servers(lab: Lab) -> list[int]:
    supervisor = lab.supervisor()
    return [pid for pid in process_ids() if is_child(pid, supervisor) and b"virtiofsd" in words_of(pid).split(b"\0")[0]]


def test_a_folder_is_shared_and_its_server_is_missed(stopped: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "hello").write_text("from the host\n")
    with leaving_nobody():
        stopped.done("run", "mini", *BACKGROUND, f"--dir={folder}", timeout=100)
        assert stopped.sh("cat /mnt/shared/hello; echo from the guest > /mnt/shared/answer") == "from the host"
        assert (folder / "answer").read_text() == "from the guest\n"
        assert (folder / "answer").stat().st_uid == os.geteuid()

        refused = stopped.tart("suspend", "mini")
        said = refused.err.splitlines()
        assert (refused.code, len(said), "--dir" in said[0], "--dir=…:sync" in said[1]) == (1, 2, True, True), refused
        kill(stopped.supervisor(), signal.SIGUSR1)
        until(lambda: all(line in stopped.done("logs", "mini") for line in said), "the same in its log")
        refused = stopped.tart("snapshot", "create", "mini")
        assert (refused.code, "which QEMU cannot save" in refused.err) == (1, True)
        assert "tart stop mini" in refused.err
        assert stopped.sh("cat /mnt/shared/answer") == "from the guest"

        (server,) = servers(stopped)
        kill(server)
        assert stopped.done("wait", "mini").startswith("crashed (exit code 1): virtiofsd, which serves")
    assert list((stopped.home / "tmp").iterdir()) == []


def test_the_supervisor_is_killed_and_takes_its_servers_along(stopped: Lab, tmp_path: Path) -> None:
    with leaving_nobody():
        with stopped.started("run", "mini", *HEADLESS, f"--dir=a:{tmp_path}:ro", f"--dir={tmp_path}:tag=b") as run:
            until((stopped.vm().path / "control.sock").exists, "the control socket")
            assert len(servers(stopped)) == 2
            kill(run.pid)
            run.wait(10)
        assert stopped.state() == "stopped"


def test_an_archive_that_cannot_be_had_is_wrong_usage(stopped: Lab) -> None:
    with leaving_nobody():
        called = stopped.tart("run", "mini", *HEADLESS, "--dir=x:http:/none")
    assert called.code == 64
    assert called.err.startswith("--dir http")
    assert stopped.state() == "stopped"
