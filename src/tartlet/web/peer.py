"""Whose program is at the other end of a TCP connection within this machine (proc(5), /proc/net/tcp)."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

_TABLE = Path("/proc/net/tcp")
_ADDRESS, _PEER, _USER = 1, 2, 7
"""Columns."""


def user_at(theirs: tuple[str, int], ours: tuple[str, int]) -> int | None:
    """The user that owns the socket bound to `theirs` and connected to `ours`, IPv4 both; None when it is not known."""
    try:
        rows = _TABLE.read_text().splitlines()[1:]
    except OSError:
        return None
    wanted = [_written(theirs), _written(ours)]
    for row in rows:
        columns = row.split()
        if columns[_ADDRESS : _PEER + 1] == wanted:
            return int(columns[_USER])
    return None


def _written(address: tuple[str, int]) -> str:
    """As the kernel writes it: the address as a number of this machine's byte order, both in hexadecimal."""
    number = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{number:08X}:{address[1]:04X}"
