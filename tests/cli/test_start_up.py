"""The start and the end of a call: Ctrl+C, pipes, a home that cannot be made, left-overs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command import TART, surroundings, tart
from tartlet.host.locks import file_lock

HOLD_LOCK = """
import sys
from tartlet.host.locks import file_lock
with file_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_no_words_show_the_help_and_collect(tmp_path: Path) -> None:
    stale = tmp_path / "home" / "tmp" / "stale"
    stale.mkdir(parents=True)
    called = tart(tmp_path / "home")
    assert called.code == 0
    assert called.out.startswith("OVERVIEW: ")
    assert not stale.exists()


def test_a_command_collects_what_nobody_holds_and_spares_the_rest(tmp_path: Path) -> None:
    tmp = tmp_path / "home" / "tmp"
    (tmp / "stale" / "deep").mkdir(parents=True)
    (tmp / "file").write_bytes(b"x")
    (tmp / "link").symlink_to("nowhere")
    (tmp / "held").mkdir()
    with file_lock(tmp / "held"):
        assert tart(tmp_path / "home", "list").code == 0
    assert os.listdir(tmp) == ["held"]


def test_clone_spares_what_a_pull_left(tmp_path: Path) -> None:
    stale = tmp_path / "home" / "tmp" / "stale"
    stale.mkdir(parents=True)
    assert tart(tmp_path / "home", "clone", "nope", "x").code == 2
    assert stale.exists()


def test_wrong_usage_touches_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for words in (["list", "--source", "foo"], ["prune"], ["create", "x"], ["stop"], ["nope"]):
        assert tart(home, *words).code == 64
    assert not home.exists()


def test_a_home_that_cannot_be_made_names_the_part_that_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    called = tart(tmp_path / "file" / "deep" / "home", "list")
    assert called.code == 1
    assert f"{tmp_path}/file" in called.err
    assert "Traceback" not in called.err


def test_each_missing_part_of_the_home_is_made(tmp_path: Path) -> None:
    home = tmp_path / "a" / "b" / "c"
    assert tart(home, "list").code == 0
    assert sorted(os.listdir(home)) == ["cache", "tmp"]


def test_a_reader_that_goes_away_is_no_noise(tmp_path: Path) -> None:
    with subprocess.Popen(
        [TART, "help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=surroundings(tmp_path)
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_full_disk_behind_standard_output_is_an_error(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [TART, "help"], stdout=full, stderr=subprocess.PIPE, check=False, env=surroundings(tmp_path)
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: No space left on device")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("ignored_before", [False, True])
def test_ctrl_c_cancels_cleans_up_and_ends_with_1(tmp_path: Path, ignored_before: bool) -> None:
    """Also for a job that a shell started in the background with SIGINT ignored."""
    home = tmp_path / "home"
    assert tart(home, "create", "--linux", "source").code == 0
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        words = [str(TART), "clone", "source", "copy"]
        if ignored_before:
            words = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *words]
        with subprocess.Popen(words, stderr=subprocess.PIPE, env=surroundings(home)) as process:
            assert process.stderr is not None
            while not os.listdir(home / "tmp"):  # it has its work folder, and waits for the home's lock
                assert process.poll() is None
                time.sleep(0.02)
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
        holder.stdin.close()
    assert process.returncode == 1
    assert b"Traceback" not in said
    assert os.listdir(home / "tmp") == []
    assert os.listdir(home / "vms") == ["source"]


def test_a_name_that_is_no_utf_8_is_printed_as_it_is(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert tart(home, "create", "--linux", os.fsdecode(b"caf\xe9")).code == 0
    assert os.fsencode(tart(home, "list", "--quiet").out) == b"caf\xe9\n"
    assert tart(home, "list").code == 0
    assert tart(home, "list", "--format", "json").code == 0


def test_debugging_shows_what_happens_inside_on_standard_error(tmp_path: Path) -> None:
    called = tart(tmp_path / "home", "create", "--linux", "debian", TART_LOG="debug")
    assert (called.code, called.out) == (0, "")
    assert "run: " in called.err
    assert "qemu-system" in called.err
    assert tart(tmp_path / "home", "list", TART_LOG="info").err == ""
