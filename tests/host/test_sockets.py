"""Sockets in deep folders, and what may stand in their way."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from tartlet.errors import FileTrouble
from tartlet.host import sockets
from tartlet.host.sockets import AddressTaken, connected, listening, short_address


def talk(listener: socket.socket, folder: Path) -> bytes:
    listener.setblocking(True)
    with connected(folder, "s") as client:
        server, _ = listener.accept()
        with server:
            server.sendall(b"hello")
        client.setblocking(True)
        return client.recv(10)


@pytest.mark.parametrize("length", [10, 90, 150, 250])
def test_a_socket_in_a_folder_of_any_depth(tmp_path: Path, length: int) -> None:
    folder = tmp_path / ("x" * length) / ("y" * length)
    folder.mkdir(parents=True)
    before, descriptors = Path.cwd(), sorted(os.listdir("/proc/self/fd"))
    with listening(folder, "s") as listener:
        assert talk(listener, folder) == b"hello"
        assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o600
    assert (folder / "s").is_socket(), "the file stays"
    assert Path.cwd() == before
    assert sorted(os.listdir("/proc/self/fd")) == descriptors


def test_without_proc_a_symbolic_link_shortens_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_folder(_: str) -> bool:
        return False

    monkeypatch.setattr(os.path, "isdir", no_folder)
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    with listening(folder, "s") as listener:
        assert talk(listener, folder) == b"hello"
    with short_address(folder, "s") as address:
        assert len(os.fsencode(address)) < sockets._SHORT_ENOUGH
        assert os.path.samefile(address, folder / "s")
    assert not os.path.lexists(address)


def test_the_socket_of_an_ended_process_is_replaced(tmp_path: Path) -> None:
    listening(tmp_path, "s").close()
    with pytest.raises(ConnectionRefusedError):
        connected(tmp_path, "s")
    with listening(tmp_path, "s") as listener:
        assert talk(listener, tmp_path) == b"hello"


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_never_removed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/etc/passwd")
    with pytest.raises(AddressTaken, match="is in the way"):
        listening(tmp_path, "s")
    assert os.path.lexists(path)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileTrouble, match="cannot listen at"):
        listening(tmp_path / "missing", "s")
    with pytest.raises(FileNotFoundError):
        connected(tmp_path, "s")


def test_a_full_queue_is_an_error_and_no_wait(tmp_path: Path) -> None:
    with listening(tmp_path, "s"):
        clients: list[socket.socket] = []
        try:
            with pytest.raises(BlockingIOError):
                clients.extend(connected(tmp_path, "s") for _ in range(1000))
        finally:
            for client in clients:
                client.close()
