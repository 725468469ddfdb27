"""Messages of the kernel's packet filter over netlink sockets (netlink(7), linux/netfilter/nfnetlink.h)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import AsyncGenerator, Iterator

import anyio

NETFILTER = 12
"""NETLINK_NETFILTER."""

HEADER = struct.Struct("=IHHII")
"""`struct nlmsghdr`: length, kind, flags, sequence number, port."""

_CHANGES_OF_RULES = 1 << (7 - 1)
"""The group NFNLGRP_NFTABLES, as bind(2) has it."""

_TABLE_DELETED = 0x0A02
"""`NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE`."""

_ROOM = 1 << 16


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each message in what was received. Raises OSError."""
    while len(data) >= HEADER.size:
        length, kind, *_ = HEADER.unpack_from(data)
        if length < HEADER.size:
            raise OSError(errno.EPROTO, "a netlink message is cut off")
        yield kind, data[HEADER.size : length]
        data = data[aligned(length) :]


def aligned(length: int) -> int:
    """Where what follows begins."""
    return (length + 3) & ~3


async def deleted_tables() -> AsyncGenerator[None]:
    """Yield after tables of nftables were deleted in this thread's network namespace, by whomever. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) as kernel:
        kernel.setblocking(False)
        kernel.bind((0, _CHANGES_OF_RULES))
        while True:
            await anyio.wait_readable(kernel)
            if _tells_of_deletions(kernel):
                yield


def _tells_of_deletions(kernel: socket.socket) -> bool:
    """Read all that has come."""
    found = False
    while True:
        try:
            found |= any(kind == _TABLE_DELETED for kind, _ in messages(kernel.recv(_ROOM)))
        except BlockingIOError:
            return found
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:
                raise
            found = True  # some were lost
