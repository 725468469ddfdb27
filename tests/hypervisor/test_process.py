"""A child process is watched, stopped, reaped, and dies with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from machines import text_in
from tartlet.errors import FileTrouble, ToolMissing
from tartlet.hypervisor.process import Process, spawned

PARENT = """
import sys, anyio
from pathlib import Path
from tartlet.hypervisor.process import spawned

async def main():
    async with spawned(["/bin/sh", "-c", "echo $$ > pid.new; mv pid.new pid; exec sleep 60"], log_file=Path("log")):
        await anyio.sleep_forever()

anyio.run(main)
"""


def appears(path: Path, within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not path.exists() and time.monotonic() < deadline:
        pass  # without a pause: some tests act within a millisecond
    assert path.exists()


def ended(pid: int, within: float = 20.0) -> bool:
    deadline = time.monotonic() + within
    while (alive := _lives(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive


def _lives(pid: int) -> bool:
    """An orphan that has ended and that nobody reaps lives no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.anyio
async def test_what_it_says_and_how_it_ends_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("an earlier run\n")
    async with spawned(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], log_file=log) as process:
        assert await process.wait() == 3
        assert process.log_tail() == "out\nerr"
        crash = process.crash()
    assert "exit status 3" in str(crash)
    assert "out\nerr" in str(crash)
    assert str(log) in (crash.hint or "")
    assert log.read_text().startswith("an earlier run")


@pytest.mark.anyio
async def test_a_signal_that_killed_it_is_named(tmp_path: Path) -> None:
    async with spawned(["/bin/sh", "-c", "kill -SEGV $$"], log_file=tmp_path / "log") as process:
        assert await process.wait() == -signal.SIGSEGV
        assert "killed by SIGSEGV" in str(process.crash())


@pytest.mark.anyio
async def test_many_may_wait_for_one_end(tmp_path: Path) -> None:
    seen = list[int]()

    async def wait() -> None:
        seen.append(await process.wait())

    async with spawned(["/bin/sleep", "0.3"], log_file=tmp_path / "log") as process, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
    assert seen == [0, 0, 0]


@pytest.mark.anyio
async def test_leaving_the_block_ends_it_politely(tmp_path: Path) -> None:
    waits = 'trap "echo asked; exit 0" TERM; echo ready; while :; do sleep 0.05; done'
    async with spawned(["/bin/sh", "-c", waits], log_file=tmp_path / "log") as process:
        await text_in(process.log_file, "ready")
    assert process.returncode == 0
    assert process.log_tail() == "ready\nasked"


@pytest.mark.anyio
async def test_what_ignores_the_request_is_killed(tmp_path: Path) -> None:
    stubborn = 'trap "" TERM; echo ready; while :; do sleep 0.05; done'
    async with spawned(["/bin/sh", "-c", stubborn], log_file=tmp_path / "log", grace=0.2) as process:
        await text_in(process.log_file, "ready")
    assert process.returncode == -signal.SIGKILL


@pytest.mark.anyio
async def test_a_cancelled_block_still_ends_it(tmp_path: Path) -> None:
    started = list[Process]()
    with anyio.move_on_after(0.1) as scope:
        async with spawned(["/bin/sleep", "60"], log_file=tmp_path / "log") as process:
            started.append(process)
            await process.wait()
    assert scope.cancelled_caught
    assert started[0].returncode == -signal.SIGTERM


@pytest.mark.anyio
async def test_it_inherits_what_it_is_given_and_nothing_else(tmp_path: Path) -> None:
    given, other = os.open("/dev/null", os.O_RDONLY), os.open("/dev/zero", os.O_RDONLY)
    os.set_inheritable(other, True)
    try:
        argv = ["/bin/sh", "-c", "ls -l /proc/$$/fd"]
        async with spawned(argv, log_file=tmp_path / "log", pass_fds=[given]) as process:
            await process.wait()
    finally:
        os.close(given)
        os.close(other)
    assert f" {given} -> /dev/null" in process.log_tail()
    assert "/dev/zero" not in process.log_tail()


@pytest.mark.anyio
async def test_it_is_the_leader_of_its_own_session(tmp_path: Path) -> None:
    async with spawned(["/bin/sleep", "60"], log_file=tmp_path / "log") as process:
        assert os.getsid(process.pid) == process.pid


def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path) as parent:
        appears(tmp_path / "pid")
        child = int((tmp_path / "pid").read_text())
        assert not ended(child, within=0.1)
        parent.kill()
    assert ended(child)


def test_a_parent_killed_at_any_moment_leaves_nothing(tmp_path: Path) -> None:
    """The moment between fork and the child's request for its signal is the one that would leave an orphan."""
    for step in range(12):
        folder = tmp_path / str(step)
        folder.mkdir()
        with subprocess.Popen([sys.executable, "-c", PARENT], cwd=folder) as parent:
            appears(folder / "log")  # opened just before the fork
            time.sleep(step * 0.0005)
            parent.kill()
    time.sleep(0.3)
    for left in tmp_path.glob("*/pid"):
        assert ended(int(left.read_text()))


@pytest.mark.anyio
async def test_a_missing_program_and_a_log_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing):
        async with spawned(["/nowhere/qemu"], log_file=tmp_path / "log"):
            pass
    with pytest.raises(FileTrouble):
        async with spawned(["/bin/true"], log_file=tmp_path / "missing" / "log"):
            pass
