"""Who holds a lock, and how it is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tartlet.host.locks import LockTrouble, file_lock, lock_holder, number_lock, try_file_lock, try_process_lock

NUMBER_HOLDER = """
import sys
from tartlet.host.locks import number_lock
with number_lock(sys.argv[1], 7) as alone:
    print(alone, flush=True)
    sys.stdin.read()
"""
HOLDER = """
import sys
from tartlet.host.locks import try_process_lock
print(try_process_lock(sys.argv[1]) is not None, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch()
    return path


def test_a_file_lock_keeps_a_second_opener_of_the_same_process_out(file: Path) -> None:
    with file_lock(file):
        assert try_file_lock(file) is None
    again = try_file_lock(file)
    assert again is not None
    os.close(again)


def test_the_kernel_names_the_process_that_holds_a_process_lock_until_it_is_killed(file: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        assert lock_holder(file) == holder.pid
        assert try_process_lock(file) is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert lock_holder(file) == 0


def test_a_process_lock_goes_with_any_descriptor_of_the_file(file: Path) -> None:
    """Why nothing may read `config.json` in the process that holds it."""
    lock = try_process_lock(file)
    assert lock is not None
    question = f"from tartlet.host.locks import lock_holder; print(lock_holder({str(file)!r}))"

    def seen_from_outside() -> int:
        return int(subprocess.run([sys.executable, "-c", question], check=True, capture_output=True).stdout)

    assert seen_from_outside() == os.getpid()
    file.read_bytes()
    assert seen_from_outside() == 0
    os.close(lock)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert lock_holder(missing) == 0
    with pytest.raises(LockTrouble, match="missing"):
        try_file_lock(missing)
    with pytest.raises(LockTrouble, match="missing"):
        try_process_lock(missing)


def test_a_number_lock_is_one_of_many_in_a_file_that_need_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    with number_lock(path, 7) as first, number_lock(path, 7) as again, number_lock(path, 2**63 - 1) as other:
        assert (first, again, other) == (True, False, True)
    with number_lock(path, 7) as later:
        assert later
    assert path.stat().st_size == 0
    with number_lock(tmp_path / "no" / "numbers", 7) as nowhere:
        assert nowhere


def test_a_number_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    with subprocess.Popen(
        [sys.executable, "-c", NUMBER_HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"True\n"
        with number_lock(path, 7) as held:
            assert not held
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with number_lock(path, 7) as free:
            assert free
