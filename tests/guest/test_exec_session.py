"""`exec_in_terminal` as a process of its own: its descriptors, its exit status, and what it costs."""

from __future__ import annotations

import os
import pty
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest

from guest_channels import served
from machines import MAC
from scripted_qga import scripted_qga

_PROGRAM = """\
import sys, anyio
from pathlib import Path
from tartlet.errors import UserError
from tartlet.guest.exec_session import exec_in_terminal
folder, flags, *words = sys.argv[1:]
async def main():
    return await exec_in_terminal(Path(folder), words, interactive="i" in flags, tty="t" in flags, patience=5)
try:
    sys.exit(anyio.run(main))
except UserError as exc:
    print(exc, file=sys.stderr)
    sys.exit(99)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The folder of a VM whose agent is up, served in the background."""
    folder = tmp_path_factory.mktemp("vm")
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        with scripted_qga() as (port, _):
            async with served(folder, port, MAC):
                started.set()
                while not stop.is_set():  # noqa: ASYNC110 - the event is another thread's
                    await anyio.sleep(0.02)

    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    assert started.wait(10)
    yield folder
    stop.set()
    thread.join()


def words(folder: Path, flags: str, *command: str) -> list[str]:
    return [sys.executable, "-c", _PROGRAM, str(folder), flags, *command]


def run(
    folder: Path, flags: str, *command: str, stdin: int | None = None, given: bytes | None = None
) -> tuple[int, bytes, bytes]:
    if given is not None:
        done = subprocess.run(words(folder, flags, *command), input=given, capture_output=True, timeout=30, check=False)
    else:
        done = subprocess.run(words(folder, flags, *command), stdin=stdin, capture_output=True, timeout=30, check=False)
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
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *words(folder, "i", "cat")]
    done = subprocess.run(closed, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_input_from_a_terminal(folder: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words(folder, "i", "cat"), stdin=theirs, stdout=subprocess.PIPE)
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
    process = subprocess.Popen(words(folder, "", "head", "-c", "5000000", "/dev/zero"), stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=30) == 141


def test_a_slow_reader_gets_everything(folder: Path) -> None:
    process = subprocess.Popen(words(folder, "", "head", "-c", "1000000", "/dev/zero"), stdout=subprocess.PIPE)
    assert process.stdout
    time.sleep(1)
    assert len(process.stdout.read()) == 1_000_000
    process.stdout.close()
    assert process.wait(timeout=30) == 0


def test_output_to_a_file(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        done = subprocess.run(
            words(folder, "", "head", "-c", "300000", "/dev/zero"), stdout=file, timeout=30, check=False
        )
    assert done.returncode == 0
    assert (tmp_path / "out").stat().st_size == 300_000


def test_a_full_disk_is_told(folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            words(folder, "", "echo", "x"), stdout=full, stderr=subprocess.PIPE, timeout=30, check=False
        )
    assert done.returncode == 99
    assert b"cannot write to standard output: No space left on device" in done.stderr


def test_a_terminal_is_refused_with_the_reason(folder: Path) -> None:
    code, _, err = run(folder, "t", "sh")
    assert code == 99
    assert b"the QEMU guest agent" in err
    assert b"-t" in err


def test_nobody_there_is_told(tmp_path: Path) -> None:
    started = time.monotonic()
    done = subprocess.run([*words(tmp_path, "", "true")], capture_output=True, timeout=30, check=False)
    assert done.returncode == 99
    assert b"control socket does not answer" in done.stderr
    assert time.monotonic() - started < 10


def test_an_interrupt_kills_the_command(folder: Path) -> None:
    process = subprocess.Popen(words(folder, "", "sleep", "7531"), stderr=subprocess.PIPE)
    time.sleep(1)
    process.send_signal(2)
    process.communicate(timeout=10)
    for _ in range(100):
        if not subprocess.run(["pgrep", "-f", "^sleep 7531"], capture_output=True, check=False).stdout:
            return
        time.sleep(0.05)
    pytest.fail("the command still runs")
