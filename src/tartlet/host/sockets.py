"""Unix sockets in folders whose path may be longer than a socket address holds (107 bytes on Linux, 103 on macOS)."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tartlet.errors import FileTrouble, UserError

_SHORT_ENOUGH = 103
"""Bytes a socket address holds everywhere, without the final zero."""

_BACKLOG = 64


class AddressTaken(UserError):
    """Where a socket should be bound stands something that is no socket."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is in the way: it is no socket", "move it away")
        self.path = path


def listening(folder: Path, name: str, *, mode: int = 0o600) -> socket.socket:
    """A socket bound to `folder/name`, listening, that only `mode` may connect to. The file stays when it is closed.

    A socket left there by an ended process is removed first: the caller holds the lock that makes it the only owner of
    the folder. Raises AddressTaken, FileTrouble.
    """
    _remove_stale(folder / name)
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_address(folder, name) as address:
            ours.bind(address)
            os.chmod(address, mode)  # before listen: nobody can have connected yet
        ours.listen(_BACKLOG)
    except OSError as exc:
        ours.close()
        raise FileTrouble("cannot listen at", folder / name, exc) from exc
    ours.setblocking(False)
    return ours


def connected(folder: Path, name: str) -> socket.socket:
    """A non-blocking socket connected to `folder/name`. Raises OSError: FileNotFoundError and ConnectionRefusedError
    when nobody listens."""
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        ours.setblocking(False)  # a full queue is an error then, instead of a wait without end
        with short_address(folder, name) as address:
            ours.connect(address)
    except BaseException:
        ours.close()
        raise
    return ours


@contextmanager
def short_address(folder: Path, name: str) -> Generator[str]:
    """A path of `folder/name` that fits into a socket address while the block lasts. Raises OSError.

    Nothing about the process changes meanwhile (no `chdir`). A long path is replaced by one through a descriptor of
    the folder, or through a symbolic link where the system has no `/proc`.
    """
    plain = os.path.join(folder, name)
    if len(os.fsencode(plain)) <= _SHORT_ENOUGH:
        yield plain
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        through = f"/proc/self/fd/{descriptor}"
        if os.path.isdir(through):
            yield f"{through}/{name}"
        else:
            with tempfile.TemporaryDirectory(prefix="tart-", dir="/tmp") as shelter:
                os.symlink(folder, f"{shelter}/d")
                yield f"{shelter}/d/{name}"
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise AddressTaken(path)
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise FileTrouble("cannot remove the old socket", path, exc) from exc
