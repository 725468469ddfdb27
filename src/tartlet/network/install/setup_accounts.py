"""The steps of `tart network setup` that make a user and a group of the system, and people members of it.

Formats: passwd(5), group(5). They are changed by the programs of shadow-utils, which lock and keep copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tartlet.errors import FileTrouble, UserError
from tartlet.host.process import run
from tartlet.network.install.setup_steps import HOST

_SYSTEM_IDS = 1000
"""Numbers from here on belong to people (login.defs(5))."""


class AccountTaken(UserError):
    """The name that a user or group of the system needs belongs to a person."""

    def __init__(self, kind: str, name: str, number: int) -> None:
        super().__init__(
            f"the {kind} {name} of this host is a person's (number {number})",
            f"the network needs a {kind} of the system of that name; the person's has to be renamed first",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A system group."""

    name: str
    root: Path

    @property
    def key(self) -> str:
        return f"group {self.name}"

    @property
    def says(self) -> str:
        return f"make the system group {self.name}"

    @property
    def unsays(self) -> str:
        return f"remove the group {self.name}"

    def in_place(self) -> bool:
        known = entry(self.root / "etc/group", self.name)
        if known is not None and int(known[2]) >= _SYSTEM_IDS:
            raise AccountTaken("group", self.name, int(known[2]))
        return known is not None

    async def make(self) -> None:
        await run("groupadd", *_prefix(self.root), "--system", self.name)

    async def undo(self) -> None:
        if self.in_place():
            await run("groupdel", *_prefix(self.root), self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A system user without a home and without a way to log in, in the group of the same name."""

    name: str
    root: Path

    @property
    def key(self) -> str:
        return f"user {self.name}"

    @property
    def says(self) -> str:
        return f"make the system user {self.name}, without a home and without a way to log in"

    @property
    def unsays(self) -> str:
        return f"remove the user {self.name}"

    def in_place(self) -> bool:
        known = entry(self.root / "etc/passwd", self.name)
        if known is not None and int(known[2]) >= _SYSTEM_IDS:
            raise AccountTaken("user", self.name, int(known[2]))
        return known is not None

    async def make(self) -> None:
        nothing = ("--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin")
        await run("useradd", *_prefix(self.root), "--system", "--gid", self.name, *nothing, self.name)

    async def undo(self) -> None:
        if self.in_place():
            await run("userdel", *_prefix(self.root), self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A person in the group."""

    name: str
    group: str
    root: Path

    @property
    def key(self) -> str:
        return f"member {self.name}"

    @property
    def says(self) -> str:
        return f"add {self.name} to the group {self.group}, whose members may put VMs on this host's network"

    @property
    def unsays(self) -> str:
        return f"take {self.name} out of the group {self.group}"

    def in_place(self) -> bool:
        known = entry(self.root / "etc/group", self.group)
        return known is not None and self.name in known[3].split(",")

    async def make(self) -> None:
        if self.root == HOST:  # gpasswd knows the users of a directory service too
            await run("gpasswd", "--add", self.name, self.group)
        else:
            await run("usermod", *_prefix(self.root), "--append", "--groups", self.group, self.name)

    async def undo(self) -> None:
        if not self.in_place():
            return
        if self.root == HOST:
            await run("gpasswd", "--delete", self.name, self.group)
        else:
            await run("usermod", *_prefix(self.root), "--remove", "--groups", self.group, self.name)


def entry(table: Path, name: str) -> list[str] | None:
    """The fields of a name in passwd(5) or group(5). Raises FileTrouble."""
    try:
        lines = table.read_text(errors="surrogateescape").splitlines()
    except OSError as exc:
        raise FileTrouble("cannot read", table, exc) from exc
    return next((fields for line in lines if (fields := line.split(":"))[0] == name and len(fields) >= 4), None)


def _prefix(root: Path) -> list[str]:
    return [] if root == HOST else ["--prefix", str(root)]
