"""The guest's virtio console on a terminal of the host."""

from __future__ import annotations

import os
import pty
import termios
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from booted import booted, in_guest
from machines import text_in
from tartlet.console import serial
from tartlet.errors import FileTrouble


@pytest.fixture
def terminal() -> Iterator[str]:
    master, slave = pty.openpty()
    yield os.ttyname(slave)
    os.close(master)
    os.close(slave)


async def heard(descriptor: int, text: str) -> str:
    said = b""
    with anyio.fail_after(20):
        while text.encode() not in said:
            await anyio.wait_readable(descriptor)
            said += os.read(descriptor, 65536)
    return said.decode(errors="replace")


@pytest.mark.anyio
async def test_the_guests_console_answers_on_the_pseudo_terminal(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm:
        path = await serial.pseudo_terminal(vm.monitor)
        await text_in(tmp_path / "serial.log", "READY")
        line = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            settings = termios.tcgetattr(line)
            assert settings[4] == settings[5] == termios.B115200
            await in_guest(vm.agent, '(read said < /dev/hvc0; echo "heard $said" > /dev/hvc0) > /dev/null 2>&1 &')
            os.write(line, b"hello\n")
            assert "heard hello" in await heard(line, "heard hello")
        finally:
            os.close(line)


def test_a_terminal_device_is_taken_as_it_is(terminal: str) -> None:
    assert serial.existing_terminal(terminal) == f"serial,path={terminal}"


def test_what_is_no_terminal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(serial.NotATerminal):
        serial.existing_terminal("/dev/null")
    with pytest.raises(FileTrouble, match="none"):
        serial.existing_terminal(str(tmp_path / "none"))
