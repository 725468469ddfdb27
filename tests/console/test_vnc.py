"""A real VNC client gets in with the password that was printed, and with no other."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio.to_thread
import pytest

from booted import booted
from tartlet.console import vnc
from vnc_clipboard import answer_to

VNC_AUTHENTICATION = 2


@contextmanager
def greeted(port: int) -> Generator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        assert client.recv(12) == b"RFB 003.008\n"
        client.sendall(b"RFB 003.008\n")
        offered = client.recv(client.recv(1)[0])
        assert offered == bytes([VNC_AUTHENTICATION])
        client.sendall(bytes([VNC_AUTHENTICATION]))
        yield client


def lets_in(port: int, password: str) -> bool:
    with greeted(port) as client:
        client.sendall(answer_to(client.recv(16), password))
        return client.recv(4) == bytes(4)


@pytest.mark.anyio
async def test_the_password_of_four_words_lets_in_and_no_other_does(tmp_path: Path) -> None:
    async with booted(tmp_path, display=("-display", "none", *vnc.words())) as vm:
        port = await vm.monitor.vnc_port()
        assert not await anyio.to_thread.run_sync(lets_in, port, "")
        server = await vnc.listening(vm.monitor)
        assert server.port == port >= 5900
        assert server.url == f"vnc://:{server.password}@127.0.0.1:{port}"
        assert await anyio.to_thread.run_sync(lets_in, port, server.password)
        assert not await anyio.to_thread.run_sync(lets_in, port, "abandon-zoo")
        arguments = (Path("/proc") / str(vm.process.pid) / "cmdline").read_bytes()
        assert server.password[: vnc.PASSWORD_BYTES].encode() not in arguments


@pytest.mark.anyio
async def test_two_servers_take_two_ports(tmp_path: Path) -> None:
    shown = ("-display", "none", *vnc.words())
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with booted(tmp_path / "one", display=shown) as one, booted(tmp_path / "two", display=shown) as two:
        assert await one.monitor.vnc_port() != await two.monitor.vnc_port()


def test_passwords_are_four_known_words_and_never_the_same() -> None:
    drawn = {vnc.new_password() for _ in range(50)}
    assert len(drawn) == 50
    words = {word for password in drawn for word in password.split("-")}
    assert all(len(password.split("-")) == 4 for password in drawn)
    assert len(words) > 150  # 200 draws of 2048 words
    assert all(word.isalpha() and word.islower() for word in words)
