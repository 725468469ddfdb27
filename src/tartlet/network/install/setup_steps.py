"""The single steps of `tart network setup`: each knows whether it is done, does it, and takes it back."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tartlet.errors import FileTrouble
from tartlet.host.files import removed, write_whole
from tartlet.host.paths import made
from tartlet.host.process import run
from tartlet.host.trouble import trouble_writing

HOST = Path("/")


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
            raise trouble_writing(self._place, exc) from exc
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
