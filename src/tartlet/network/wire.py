"""Messages between a VM's supervisor and the process that holds the network: one JSON object each, with descriptors.

The socket keeps messages apart (`SOCK_SEQPACKET`). Its name is abstract: it belongs to the host's network namespace as
the network does, is no file, and is free again when its process is gone, however that ended.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

VERSION = 2
"""Of the messages. Programs of different versions do not share a network."""

_LARGEST = 1 << 17
_MOST_DESCRIPTORS = 8
_CREDENTIALS = struct.Struct("3i")


class Hangup(Exception):
    """The other side has ended."""


def name(network: str) -> str:
    """The socket's name for one network of this user: `userns`, `nat`."""
    return f"\0tartlet/network/{os.getuid()}/{network}/{VERSION}"


def new_socket() -> socket.socket:
    """One that is not connected yet."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def peer_uid(connection: socket.socket) -> int:
    """Which user the other side was when it connected or listened, as this process's user namespace numbers it."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(told)
    return int(uid)


def send(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message; the descriptors stay open here. Raises Hangup, BlockingIOError."""
    try:
        socket.send_fds(connection, [json.dumps(message).encode()], descriptors)
    except (BrokenPipeError, ConnectionResetError) as exc:
        raise Hangup from exc


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors, which are the caller's now. Raises Hangup, BlockingIOError."""
    try:
        told, descriptors, _, _ = socket.recv_fds(
            connection, _LARGEST, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )  # fmt: skip
    except ConnectionResetError as exc:
        raise Hangup from exc
    if not told:
        raise Hangup
    message: Any = json.loads(told)
    return message, descriptors
