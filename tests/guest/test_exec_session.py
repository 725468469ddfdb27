"""`exec_in_terminal` as a process of its own: its descriptors, its exit status, and what it costs."""

from __future__ import annotations

import os
import pty
import resource
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from exec_sessions import served_in_background, session_words
from tartlet.host.sockets import listening


@pytest.fixture(scope="module", params=["qemu", "tart"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The folder of a VM whose agent, of either kind, is up."""
    with served_in_background(tmp_path_factory.mktemp("vm"), request.param) as folder:
        yield folder


@pytest.fixture(scope="module")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The folder of a VM that has the QEMU guest agent only."""
    with served_in_background(tmp_path_factory.mktemp("vm"), "qemu") as folder:
        yield folder


def run(
    folder: Path, flags: str, *command: str, stdin: int | None = None, given: bytes | None = None
) -> tuple[int, bytes, bytes]:
    if given is not None:
        done = subprocess.run(
            session_words(folder, flags, *command), input=given, capture_output=True, timeout=30, check=False
        )
    else:
        done = subprocess.run(
            session_words(folder, flags, *command), stdin=stdin, capture_output=True, timeout=30, check=False
        )
    return done.returncode, done.stdout, done.stderr


def test_outputs_and_exit_code_pass_through(folder: Path) -> None:
    assert run(folder, "", "sh", "-c", "printf '\\0\\377'; printf e >&2; exit 42") == (42, b"\0\xff", b"e")


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 255)])
def test_exit_codes(folder: Path, script: str, code: int) -> None:
    assert run(folder, "", "sh", "-c", script)[0] == code


def test_input_from_a_pipe(folder: Path) -> None:
    data = os.urandom(1_000_000)
    assert run(folder, "i", "cat", given=data) == (0, data, b"")


def test_input_from_a_file(folder: Path, tmp_path: Path) -> None:
    data = os.urandom(500_000)
    (tmp_path / "data").write_bytes(data)
    with (tmp_path / "data").open("rb") as file:
        assert run(folder, "i", "cat", stdin=file.fileno()) == (0, data, b"")


def test_input_from_the_null_device(folder: Path) -> None:
    assert run(folder, "i", "cat", stdin=subprocess.DEVNULL) == (0, b"", b"")


def test_input_from_a_closed_descriptor(folder: Path) -> None:
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *session_words(folder, "i", "cat")]
    done = subprocess.run(closed, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_input_from_a_terminal(folder: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(session_words(folder, "i", "cat"), stdin=theirs, stdout=subprocess.PIPE)
    os.close(theirs)
    os.write(ours, b"typed\n\x04")
    assert process.communicate(timeout=30)[0] == b"typed\n"
    os.close(ours)
    assert process.returncode == 0


def test_without_interest_the_input_is_left_alone(folder: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"for somebody else")
    assert run(folder, "", "cat", stdin=reading) == (0, b"", b"")
    os.close(writing)
    assert os.read(reading, 100) == b"for somebody else"
    os.close(reading)


def test_waiting_costs_no_processor_time(folder: Path) -> None:
    """`true | tart exec -i vm sleep 3`: the input has ended, the command has not."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run(folder, "i", "true", given=b"")[0] == 0
    between = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run(folder, "i", "sleep", "3", given=b"")[0] == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    start_up = between.ru_utime + between.ru_stime - before.ru_utime - before.ru_stime
    waiting = after.ru_utime + after.ru_stime - between.ru_utime - between.ru_stime
    assert waiting - start_up < 0.3


def test_a_reader_that_goes_away_ends_it(folder: Path) -> None:
    process = subprocess.Popen(session_words(folder, "", "head", "-c", "5000000", "/dev/zero"), stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=30) == 141


def test_a_slow_reader_gets_everything(folder: Path) -> None:
    process = subprocess.Popen(session_words(folder, "", "head", "-c", "1000000", "/dev/zero"), stdout=subprocess.PIPE)
    assert process.stdout
    time.sleep(1)
    assert len(process.stdout.read()) == 1_000_000
    process.stdout.close()
    assert process.wait(timeout=30) == 0


def test_output_to_a_file(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        done = subprocess.run(
            session_words(folder, "", "head", "-c", "300000", "/dev/zero"), stdout=file, timeout=30, check=False
        )
    assert done.returncode == 0
    assert (tmp_path / "out").stat().st_size == 300_000


def test_a_full_disk_is_told(folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            session_words(folder, "", "echo", "x"), stdout=full, stderr=subprocess.PIPE, timeout=30, check=False
        )
    assert done.returncode == 99
    assert b"cannot write to standard output: No space left on device" in done.stderr


def test_a_terminal_is_refused_with_the_reason(qemu: Path) -> None:
    code, _, err = run(qemu, "t", "sh")
    assert code == 99
    assert b"the QEMU guest agent" in err
    assert b"-t" in err


def test_a_command_that_takes_too_long_is_killed(folder: Path) -> None:
    code, out, err = run(folder, "l", "sh", "-c", "echo begun; exec sleep 7532")
    assert (code, err) == (99, b"given up after 1 second, and the command was killed\n")
    assert out in (b"", b"begun\n")  # the QEMU guest agent has told nothing until then
    _gone("^sleep 7532")


def test_nobody_there_is_told(tmp_path: Path) -> None:
    started = time.monotonic()
    done = subprocess.run([*session_words(tmp_path, "", "true")], capture_output=True, timeout=30, check=False)
    assert done.returncode == 99
    assert b"control socket does not answer" in done.stderr
    assert time.monotonic() - started < 25


@pytest.mark.parametrize("flags", ["", "t"])
def test_a_connection_that_is_lost_is_told(tmp_path: Path, flags: str) -> None:
    with listening(tmp_path, "control.sock") as listener:
        listener.setblocking(True)
        with subprocess.Popen(
            session_words(tmp_path, flags, "true"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            connection, _ = listener.accept()
            connection.recv(1000)
            time.sleep(0.5)  # it waits for an answer by now
            connection.close()
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (99, b"")
    assert err.startswith(b"the connection to the guest agent was lost")


def test_an_interrupt_kills_the_command(folder: Path) -> None:
    process = subprocess.Popen(session_words(folder, "", "sleep", "7531"), stderr=subprocess.PIPE)
    time.sleep(1)
    process.send_signal(2)
    process.communicate(timeout=10)
    _gone("^sleep 7531")


def _gone(words: str) -> None:
    for _ in range(100):
        if not subprocess.run(["pgrep", "-f", words], capture_output=True, check=False).stdout:
            return
        time.sleep(0.05)
    pytest.fail(f"{words} still runs")
