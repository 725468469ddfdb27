"""The QEMU guest agent's replies as types. Source: QEMU, qga/qapi-schema.json (version 7.2)."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Envelope(msgspec.Struct):
    """As much of a reply as tells which request it answers."""

    id: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")


class Refusal(msgspec.Struct):
    """Why the agent did not do what it was asked."""

    desc: str = ""


class Reply(msgspec.Struct, Generic[T]):
    """A reply: either what was asked for, or an error."""

    value: T | None = msgspec.field(name="return", default=None)
    error: Refusal | None = None
    id: msgspec.Raw = msgspec.Raw(b"")


class Nothing(msgspec.Struct):
    """The value of commands that only do something."""


class SupportedCommand(msgspec.Struct):
    """A command this agent knows, and whether its configuration lets it be used."""

    name: str
    enabled: bool


class AgentInfo(msgspec.Struct):
    """`guest-info`."""

    version: str
    supported_commands: list[SupportedCommand]

    def enabled(self, name: str) -> bool:
        """Whether the agent knows the command and may carry it out."""
        return any(command.enabled for command in self.supported_commands if command.name == name)


class Started(msgspec.Struct):
    """`guest-exec`."""

    pid: int


class ExecStatus(msgspec.Struct, rename="kebab"):
    """`guest-exec-status`. The outputs come once, when the process has ended; each at most 16 MiB."""

    exited: bool
    exitcode: int | None = None
    signal: int | None = None
    out_data: bytes = b""
    err_data: bytes = b""
    out_truncated: bool = False
    err_truncated: bool = False


class Address(msgspec.Struct, rename="kebab"):
    """One address of a network interface."""

    ip_address: str
    ip_address_type: str
    prefix: int


class Interface(msgspec.Struct, rename="kebab"):
    """One network interface of the guest."""

    name: str
    hardware_address: str = ""
    ip_addresses: list[Address] = []


class FilePiece(msgspec.Struct, rename="kebab"):
    """`guest-file-read`."""

    count: int
    eof: bool
    data: bytes = msgspec.field(name="buf-b64", default=b"")


class FileWritten(msgspec.Struct):
    """`guest-file-write`: how many bytes it took."""

    count: int
    eof: bool
