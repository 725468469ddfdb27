"""`tart exec -t` on a real terminal: a pseudo-terminal of this host whose other end the test holds."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exec_sessions import served_in_background, session_words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The folder of a VM that has our own agent."""
    with served_in_background(tmp_path_factory.mktemp("vm"), "tart") as folder:
        yield folder


class Terminal:
    """A terminal with somebody at it."""

    def __init__(self, ours: int, theirs: int) -> None:
        self.ours, self.theirs = ours, theirs
        self.shown = ""

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def shows(self, pattern: str, within: float = 20) -> re.Match[str]:
        """Wait until it shows something after what was waited for before."""
        deadline = time.monotonic() + within
        while not (found := re.search(pattern, self.shown)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.shown!r}"
            if select.select([self.ours], [], [], left)[0]:
                self.shown += os.read(self.ours, 65536).decode()
        self.shown = self.shown[found.end() :]
        return found

    def mode(self) -> list[object]:
        return termios.tcgetattr(self.theirs)

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.theirs)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


@pytest.fixture
def terminal() -> Generator[Terminal]:
    ours, theirs = pty.openpty()
    made = Terminal(ours, theirs)
    made.resize(33, 111)
    yield made
    os.close(ours)
    os.close(theirs)


@contextmanager
def session(terminal: Terminal, folder: Path, flags: str, *command: str) -> Generator[subprocess.Popen[bytes]]:
    """`tart exec` with the terminal as its controlling one."""
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", *session_words(folder, flags, *command)],
        stdin=terminal.theirs,
        stdout=terminal.theirs,
        stderr=terminal.theirs,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_shell_is_of_use_and_leaves_the_terminal_as_it_was(terminal: Terminal, folder: Path) -> None:
    before = terminal.mode()
    with session(terminal, folder, "it", "sh", "-c", "echo size $(stty size); PS1='$ ' exec sh -i") as process:
        terminal.shows(r"size 33 111\r\n")
        assert terminal.mode() != before
        terminal.shows(r"\$ ")
        terminal.type(b"echo $((6 * 7))\r")
        terminal.shows(r"\r\n42\r\n")
        terminal.type(b"sleep 3600\r")
        terminal.shows("sleep 3600\r\n")
        time.sleep(0.3)
        terminal.type(b"\x03")  # ends the sleep, not the session
        terminal.type(b"echo still $((1 + 1))\r")
        terminal.shows(r"still 2\r\n")
        terminal.type(b"exit 9\r")
        assert process.wait(20) == 9
    assert terminal.mode() == before


def test_a_new_size_arrives(terminal: Terminal, folder: Path) -> None:
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"
    with session(terminal, folder, "it", "sh", "-c", script) as process:
        terminal.shows("ready")
        for rows, columns in ((50, 132), (10, 20)):
            terminal.resize(rows, columns)
            terminal.shows(f"{rows} {columns}")
        terminal.type(b"\x03\x1c")
        process.wait(20)


def test_the_end_of_input_by_key(terminal: Terminal, folder: Path) -> None:
    with session(terminal, folder, "it", "sh", "-c", "echo begun; exec cat") as process:
        terminal.shows("begun")
        terminal.type(b"a line\r\x04")
        terminal.shows("a line\r\na line\r\n")
        assert process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_it_leaves_the_terminal_as_it_was(
    terminal: Terminal, folder: Path, number: signal.Signals
) -> None:
    before = terminal.mode()
    with session(terminal, folder, "it", "sh", "-c", "echo begun; exec sleep 7658"):
        terminal.shows("begun")
        assert terminal.mode() != before
        (pid,) = _processes(f"python.*{folder}")
        os.kill(pid, number)
        _gone("^sleep 7658")
    assert terminal.mode() == before


def test_without_input_ctrl_c_ends_it(terminal: Terminal, folder: Path) -> None:
    before = terminal.mode()
    with session(terminal, folder, "t", "sh", "-c", "echo begun; exec sleep 7659"):
        terminal.shows("begun")
        terminal.type(b"\x03")
        _gone("^sleep 7659")
    assert terminal.mode() == before


def test_a_stopped_session_goes_on_raw(terminal: Terminal, folder: Path) -> None:
    with session(terminal, folder, "it", "sh", "-c", "echo begun; exec cat") as process:
        terminal.shows("begun")
        assert terminal.is_raw()
        (pid,) = _processes(f"python.*{folder}")
        os.kill(pid, signal.SIGSTOP)
        subprocess.run(["stty", "sane"], stdin=terminal.theirs, check=True)
        assert not terminal.is_raw()
        os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + 30
        while not terminal.is_raw():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        terminal.type(b"\x04")
        assert process.wait(20) == 0


def test_a_terminal_for_the_command_alone(folder: Path) -> None:
    """Neither input nor output of this process is a terminal: the size is what every program expects."""
    for flags in ("t", "it"):
        words = session_words(folder, flags, "sh", "-c", "stty size; tty")
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
        assert re.fullmatch(rb"24 80\r\n/dev/pts/\d+\r\n(\^D\x08\x08)?", done.stdout), done
        assert (done.returncode, done.stderr) == (0, b"")


def _processes(words: str) -> list[int]:
    told = subprocess.run(["pgrep", "-f", words], capture_output=True, check=False, text=True).stdout
    return [int(word) for word in told.split() if Path(f"/proc/{word}/comm").read_text() != "setsid\n"]


def _gone(words: str) -> None:
    deadline = time.monotonic() + 30
    while subprocess.run(["pgrep", "-f", words], capture_output=True, check=False).stdout:
        assert time.monotonic() < deadline, f"{words} still runs"
        time.sleep(0.05)
