"""`tart console` and `tart screenshot` on a VM that runs in the background."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import termios
import time
import zlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest

import tartlet
from command import TART, surroundings
from tartlet.vm.stored.folder import VmFolder
from vm_lab import HEADLESS, Lab, leaving_nobody, until

SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Terminal:
    """A pseudo-terminal with `tart console` in it, as a person sees it."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self.process, self._ours = process, ours
        self.seen = b""

    def type(self, text: bytes) -> None:
        os.write(self._ours, text)

    def expect(self, text: bytes, within: float = 20) -> None:
        """Wait until `text` has been printed."""
        until(lambda: self._more() and text in self.seen, f"{text!r} on the terminal", within)

    def _more(self) -> bool:
        with suppress(OSError):  # nothing yet, or nobody is left at the other end
            self.seen += os.read(self._ours, 65536)
        return True


@contextmanager
def console(lab: Lab, name: str = "mini") -> Generator[Terminal]:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    words = lab.network.words(TART, "console", name)
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=surroundings(lab.home))
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_two_people_share_the_console_of_a_vm_in_the_background(suspended: Lab) -> None:
    with leaving_nobody(), suspended.running(), console(suspended) as first, console(suspended) as second:
        first.expect(b"Ctrl+] detaches")
        second.expect(b"Ctrl+] detaches")
        first.type(b"\recho $((6*7)) >/dev/shm/x; echo answer $((6*7))\r")
        first.expect(b"answer 42")
        second.expect(b"answer 42")
        second.type(b"\x03")  # a raw terminal: this is the guest's
        second.type(b"echo again $((40+3))\r")
        first.expect(b"again 43")
        first.type(b"\x1d")
        assert first.process.wait(10) == 0
        first.expect(b"Detached from mini.")
        second.type(b"echo still $((40+4))\r")
        second.expect(b"still 44")
        assert "still 44" in suspended.vm().serial_log_path.read_text(), "the log goes on being written"
        suspended.done("stop", "mini")
        assert second.process.wait(10) == 0
        second.expect(b"mini has ended.")


def test_a_program_uses_the_console(suspended: Lab) -> None:
    with suspended.running():
        with suspended.started("console", "mini") as reader:  # its input has ended already; it goes on reading
            assert reader.stdout is not None
            assert reader.stdout.readline().startswith("Attached")
            typist = suspended.tart("console", "mini", stdin=b"\recho $((50+5))\r\x1d")
            assert typist.code == 0, typist
            until(lambda: "\n55" in suspended.vm().serial_log_path.read_text(), "the answer")
            suspended.done("stop", "mini")
            out, _ = reader.communicate(timeout=10)
        assert re.search(r"^55\r?$", out, re.MULTILINE), out
    refused = suspended.tart("console", "mini")
    assert (refused.code, refused.err.splitlines()[0]) == (2, 'VM "mini" is not running')


def test_leaving_a_console_is_not_the_end_of_the_vm(suspended: Lab) -> None:
    with suspended.running():
        with suspended.started("console", "mini") as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline().startswith("Attached")
            reader.send_signal(signal.SIGTERM)
            assert "Detached from mini." in reader.stdout.read()
            assert reader.wait(10) == 0
        output, nobody = os.pipe()
        os.close(output)
        with subprocess.Popen(
            [str(TART), "console", "mini"],
            stdin=subprocess.PIPE,
            stdout=nobody,
            stderr=subprocess.PIPE,
            env=surroundings(suspended.home),
        ) as writer:
            os.close(nobody)
            _, said = writer.communicate(b"\recho $((50+6))\r", timeout=20)
        assert b"Detached from mini." in said


def test_nonsense_on_the_socket_harms_nobody(suspended: Lab) -> None:
    with suspended.running():
        for nonsense in (b"", b"\n", b"[]\n", b'{"order": "fly"}\n', b"\xff" * 3_000_000, b'{"order": "input"}\n'):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect(str(suspended.vm().path / "manage.sock"))
                try:
                    sock.sendall(nonsense)
                    sock.shutdown(socket.SHUT_WR)
                    answer = sock.recv(65536)
                except ConnectionError:
                    continue
                assert not answer or b'"error"' in answer
        assert suspended.vm().path.joinpath("manage.sock").stat().st_mode & 0o777 == 0o600
        assert suspended.sh("echo alive") == "alive"


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height, after having looked at the picture's frame."""
    assert png.startswith(SIGNATURE)
    assert png.endswith(b"IEND" + zlib.crc32(b"IEND").to_bytes(4))
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def test_the_screen_is_pictured_and_typed_on_without_a_window(tmp_path: Path, stopped: Lab) -> None:
    """The firmware of a VM with an empty disk ends in its shell or its menu, which echo and obey the keyboard."""
    stopped.done("create", "--linux", "empty")
    stopped.done("set", "empty", "--cpu", "1", "--memory", "256", "--display", "800x600")
    vm = VmFolder("empty", stopped.vm("empty").path)
    with leaving_nobody(), stopped.started("run", "empty", *HEADLESS):
        stopped.supervisor("empty")
        target = tmp_path / "screen.png"
        assert stopped.done("screenshot", "empty", str(target)) == f"{target}\n"
        assert min(size_of(target.read_bytes())) > 0
        before = settled(vm)
        anyio.run(tartlet.type_text, vm, "tartlet")
        anyio.run(tartlet.press_keys, vm, "down")
        until(lambda: anyio.run(tartlet.screenshot, vm) != before, "what was typed on the screen")
        anyio.run(tartlet.click, vm, 0.5, 0.5)
        plain = subprocess.run(
            [TART, "screenshot", "empty", "-"], capture_output=True, check=True, env=surroundings(stopped.home)
        )
        size_of(plain.stdout)
        missing = stopped.tart("screenshot", "empty", str(tmp_path / "no" / "folder.png"))
        assert (missing.code, missing.err.count("\n")) == (1, 2)
        assert "cannot write the picture" in missing.err
        stopped.done("stop", "empty")
    assert stopped.tart("screenshot", "empty").code == 2


def settled(vm: VmFolder) -> bytes:
    """The screen once it has shown something and then not changed for a while."""
    first = before = anyio.run(tartlet.screenshot, vm)
    deadline, since = time.monotonic() + 60, time.monotonic()
    while before == first or time.monotonic() < since + 2:
        assert time.monotonic() < deadline, "the firmware shows nothing, or never rests"
        time.sleep(0.2)
        now = anyio.run(tartlet.screenshot, vm)
        if now != before:
            before, since = now, time.monotonic()
    return before


def test_a_terminal_is_given_back_as_it_was(suspended: Lab) -> None:
    with suspended.running(), console(suspended) as terminal:
        terminal.expect(b"Ctrl+] detaches")
        until(lambda: not termios.tcgetattr(terminal._ours)[3] & termios.ECHO, "a raw terminal")
        terminal.process.send_signal(signal.SIGTERM)
        terminal.process.wait(10)
        assert termios.tcgetattr(terminal._ours)[3] & termios.ECHO


@pytest.mark.anyio
async def test_the_library_refuses_what_does_not_run(stopped: Lab) -> None:
    with pytest.raises(tartlet.VmNotRunning):
        await tartlet.screenshot(stopped.vm())
