"""Messages between a VM's supervisor and the process that holds the network: one JSON object each, with descriptors.

The socket keeps messages apart (`SOCK_SEQPACKET`). Its name is abstract: it belongs to the host's network namespace as
the network does, is no file, and is free again when its process is gone, however that ended.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

VERSION = 2
"""Of the messages. Programs of different versions do not share a network."""

INSTALLED = Path("/run/tartlet/net.sock")
"""Where the process for this host's network listens that an administrator installed (`tart network setup`)."""

HELPER = "tart-net-helper"
"""The program of that process."""

_LARGEST = 1 << 17
_AT_ONCE = 128
"""Members of lists in one message: with names of 253 bytes it is well below what a socket takes at once."""

_MOST_DESCRIPTORS = 8
_CREDENTIALS = struct.Struct("3i")


class Hangup(Exception):
    """The other side has ended."""


def name(network: str) -> str:
    """The socket's name for one network of this user: `userns`, `nat`."""
    return f"\0tartlet/network/{os.getuid()}/{network}/{VERSION}"


def host_name() -> str:
    """The same for the one network of this host that is held on demand."""
    return f"\0tartlet/network/host/{VERSION}"


def new_socket() -> socket.socket:
    """One that is not connected yet."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def peer_uid(connection: socket.socket) -> int:
    """Which user the other side was when it connected or listened, as this process's user namespace numbers it."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(told)
    return int(uid)


def in_pieces(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A message as one or several: long lists go ahead in pieces, and `joined` puts them together again."""
    lists = _lists(message)
    if sum(len(members) for members in lists.values()) <= _AT_ONCE:
        yield message
        return
    for key, members in lists.items():
        for start in range(0, len(members), _AT_ONCE):
            yield {"do": "more", key: members[start : start + _AT_ONCE]}
    yield {**message, **{key: [] for key in lists}}


def joined(pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message that came in pieces, the last of which is not `more`."""
    *ahead, last = pieces
    lists = _lists(last)
    return {**last, **{key: [one for piece in ahead for one in piece.get(key, ())] + lists[key] for key in lists}}


def _lists(message: dict[str, Any]) -> dict[str, list[Any]]:
    found = dict[str, list[Any]]()
    for key, value in message.items():
        if isinstance(value, list):
            found[key] = value
    return found


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


def receive_bytes(connection: socket.socket, longest: int) -> bytes:
    """The next message as it came, from somebody who is not trusted: descriptors are left to the kernel.

    Raises Hangup, ValueError (it is longer), BlockingIOError.
    """
    try:
        told, _, flags, _ = connection.recvmsg(longest)
    except ConnectionResetError as exc:
        raise Hangup from exc
    if flags & socket.MSG_TRUNC:
        raise ValueError("the message is too long")
    if not told:
        raise Hangup
    return told
