"""The single steps of `tart network setup`: each knows whether it is done, does it, and takes it back."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tartlet.errors import FileTrouble, UserError
from tartlet.host.files import removed, write_whole
from tartlet.host.paths import made
from tartlet.host.process import run

HOST = Path("/")
_SYSTEM_IDS = 1000
"""Numbers from here on belong to people (login.defs(5))."""


class AccountTaken(UserError):
    """The name that a user or group of the system needs belongs to a person."""

    def __init__(self, kind: str, name: str, number: int) -> None:
        super().__init__(
            f"the {kind} {name} of this host is a person's (number {number})",
            f"the network needs a {kind} of the system of that name; the person's has to be renamed first",
        )


class Step(Protocol):
    """One change of the system."""

    @property
    def key(self) -> str:
        """What the list of things that were made knows it by."""
        ...

    @property
    def says(self) -> str:
        """What it does, in words for whoever has to agree."""
        ...

    @property
    def unsays(self) -> str:
        """What taking it back does, likewise."""
        ...

    def in_place(self) -> bool:
        """Whether there is nothing to do. Raises UserError."""
        ...

    async def make(self) -> None:
        """Do it: wholly, or with a UserError not at all."""
        ...

    async def undo(self) -> None:
        """Take it back; nothing to take back is no error. Raises UserError."""
        ...


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file, whole or not at all."""

    path: Path
    """As it is called on the host that is set up."""
    content: str
    about: str
    root: Path
    mode: int = 0o644
    belongs_to_admin: bool = False
    """It is not replaced when it is there, and stays when it was changed."""
    then: Callable[[], Awaitable[None]] | None = None
    """What has to follow when the file came, changed or went."""

    @property
    def key(self) -> str:
        return f"file {self.path}"

    @property
    def says(self) -> str:
        return f"write {self.path} ({self.mode:04o}): {self.about}"

    @property
    def unsays(self) -> str:
        return f"leave {self.path}, which was changed" if self._is_theirs(self._text()) else f"remove {self.path}"

    def in_place(self) -> bool:
        text = self._text()
        if text is None or self.belongs_to_admin:
            return text is not None
        return text == self.content and stat.S_IMODE(self._place.stat().st_mode) == self.mode

    async def make(self) -> None:
        made(self._place.parent)
        try:
            write_whole(self._place, self.content.encode(), self.mode)
        except OSError as exc:
            raise FileTrouble("cannot write", self._place, exc) from exc
        if self.then is not None:
            await self.then()

    async def undo(self) -> None:
        text = self._text()
        if text is None or self._is_theirs(text):
            return
        try:
            removed(self._place)
        except OSError as exc:
            raise FileTrouble("cannot remove", self._place, exc) from exc
        if self.then is not None:
            await self.then()

    def _is_theirs(self, text: str | None) -> bool:
        return self.belongs_to_admin and text not in (None, self.content)

    @property
    def _place(self) -> Path:
        return within(self.root, self.path)

    def _text(self) -> str | None:
        try:
            return self._place.read_text()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise FileTrouble("cannot read", self._place, exc) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Enabled:
    """A socket unit that is listened on, now and after every start of the host."""

    unit: str
    service: str
    """What it starts."""
    folder: Path
    """Where the units are."""
    socket: Path
    root: Path

    @property
    def key(self) -> str:
        return f"enabled {self.unit}"

    @property
    def says(self) -> str:
        return f"run systemctl enable --now {self.unit}"

    @property
    def unsays(self) -> str:
        return f"run systemctl disable --now {self.unit}, and stop {self.service}"

    def in_place(self) -> bool:
        enabled = within(self.root, self.folder / "sockets.target.wants" / self.unit).is_symlink()
        return enabled and (self.root != HOST or self.socket.is_socket())

    async def make(self) -> None:
        if self.root == HOST:
            await run("systemctl", "enable", "--now", self.unit)
        else:
            await run("systemctl", f"--root={self.root}", "enable", self.unit)

    async def undo(self) -> None:
        if not within(self.root, self.folder / self.unit).exists():
            return
        if self.root == HOST:
            await run("systemctl", "disable", "--now", self.unit)
            await run("systemctl", "stop", self.service)
            removed(self.socket.parent)
        else:
            await run("systemctl", f"--root={self.root}", "disable", self.unit)


def within(root: Path, path: Path) -> Path:
    """Where an absolute path of the host that is set up lies."""
    return root / path.relative_to("/")


def entry(table: Path, name: str) -> list[str] | None:
    """The fields of a name in passwd(5) or group(5). Raises FileTrouble."""
    try:
        lines = table.read_text(errors="surrogateescape").splitlines()
    except OSError as exc:
        raise FileTrouble("cannot read", table, exc) from exc
    return next((fields for line in lines if (fields := line.split(":"))[0] == name and len(fields) >= 4), None)


def _prefix(root: Path) -> list[str]:
    return [] if root == HOST else ["--prefix", str(root)]
