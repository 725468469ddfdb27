"""What both ends of `control.sock` share: the gRPC methods, and limits that the library does not set."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from tartlet.errors import UserError

SOCKET_NAME = "control.sock"
"""In the VM's folder."""

EXEC = "/Agent/Exec"
RESOLVE_IP = "/Agent/ResolveIP"

CONNECT = "/Tartlet/Connect"
"""A method of ours: a connection to a TCP port of the guest, a stream of IOChunk both ways; an empty one is the end."""

PORT = "tartlet-port"
"""A header of CONNECT: which port."""

PATIENCE = "tartlet-patience"
"""A header of ours: seconds the server may wait for the guest's agent before it answers UNAVAILABLE."""

USER = "tartlet-user"
"""A header of ours: as whom a command is to run, percent-encoded. The supervisor that serves the socket knows it."""

BULKY = "tartlet-bulky"
"""A header of ours: `1` when input and output of a command may be large (`Command.bulky`)."""

AGENT = "tartlet-agent"
"""A header of the answer: which agent carries the command out (`agents.Kind`)."""

TRANSPORT = "tartlet-transport"
"""A header of the answer: by what that agent is reached, in words, unless it is a virtio port."""

LARGEST_MESSAGE = 4 << 20
"""Bytes of one gRPC message that are accepted; a peer could announce 4 GiB."""

WINDOW = 1 << 20
"""Bytes in flight for one stream and one connection."""


def reason(error: UserError) -> str:
    """The message of a gRPC status: what happened, and in a second line what to do."""
    return f"{error}\n{error.hint}" if error.hint else str(error)


def message_and_hint(reason: str) -> tuple[str, str | None]:
    """What `reason` was made of."""
    message, _, hint = reason.partition("\n")
    return message, hint or None


class _HasData(Protocol):
    recv_data: Callable[[int], Awaitable[bytes]]


def bound(stream: object) -> None:
    """Make a grpclib stream refuse messages larger than LARGEST_MESSAGE with RESOURCE_EXHAUSTED.

    grpclib 0.4.9 believes whatever length is announced and has no setting; it reads both the five bytes in front of a
    message and the message through `recv_data` of its inner stream, which is replaced here.
    """
    inner = cast("_HasData", vars(stream)["_stream"])
    read = inner.recv_data

    async def recv_data(size: int) -> bytes:
        if size > LARGEST_MESSAGE:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes is too large")
        return await read(size)

    inner.recv_data = recv_data
