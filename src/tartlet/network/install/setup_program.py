"""The program that is to run with rights of its own: who can change it, and whether its user can read it."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tartlet.errors import ToolFailed, UserError
from tartlet.host.process import run
from tartlet.network.shared.wire import HELPER

_HOMES = tuple(Path(place) for place in ("/home", "/root", "/run/user"))
"""What `ProtectHome=` hides (systemd.exec(5))."""
_NOBODY = "65534"
_STAFF = 50
"""Debian's group for /usr/local, which is as good as root."""
_PARTS = """
import json, os, sys, sysconfig
import anyio, tartlet
folders = [sysconfig.get_path("stdlib"), tartlet.__path__[0], anyio.__path__[0]]
print(json.dumps([os.path.realpath(sys.executable), *folders]))
"""


class ProgramUnfit(UserError):
    """The installed program must not, or cannot, run as another user."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the helper cannot run from where tart is installed: {reason}",
            "install it for all users: sudo python3 -m venv /opt/tartlet && sudo /opt/tartlet/bin/pip install tartlet, "
            "then sudo /opt/tartlet/bin/tart network setup",
        )


def installed() -> Path:
    """The program beside this interpreter. Raises UserError."""
    program = Path(sys.executable).with_name(HELPER)
    if not program.exists():
        raise UserError(f"{program} is missing", "it is a part of this program: install Tartlet again")
    return program


async def check(program: Path) -> None:
    """Find what makes it unfit to run with rights that those who could change it do not have. Raises ProgramUnfit."""
    python = _interpreter(program)
    parts = [program, python, *await _parts(python)]
    for path in parts:
        home = next((home for home in _HOMES if path.is_relative_to(home)), None)
        if home is not None:
            raise ProgramUnfit(f"{path} is in {home}, where other users see nothing")
    for path in parts:
        if (weak := _changeable(path)) is not None:
            raise ProgramUnfit(f"users other than root can change {weak}, and would get the helper's rights by that")
    await _tried(python)


def _interpreter(program: Path) -> Path:
    """What a script's first lines name: `#!PYTHON`, or for long paths a shell that calls it. Raises ProgramUnfit."""
    try:
        head = program.read_bytes()[:4096].decode(errors="replace").splitlines()
    except OSError as exc:
        raise ProgramUnfit(f"{program} cannot be read: {exc.strerror}") from exc
    first = head[0].removeprefix("#!").strip() if head and head[0].startswith("#!") else ""
    named = head[1].split('"')[1] if first == "/bin/sh" and len(head) > 1 and head[1].count('"') > 1 else first
    if not named.startswith("/") or not Path(named).exists():
        raise ProgramUnfit(f"{program} does not say which Python runs it")
    return Path(named)


async def _parts(python: Path) -> list[Path]:
    """The files and folders that the program is made of."""
    try:
        return [Path(part) for part in json.loads(await run(python, "-P", "-c", _PARTS))]
    except ToolFailed as exc:
        raise ProgramUnfit(str(exc)) from exc


def _changeable(path: Path) -> Path | None:
    """What of a path somebody else than root could replace: itself, a folder on the way, a link's target."""
    for one in _way_to(path):
        found = one.lstat()
        weak = found.st_uid != 0 or _others_write(found)
        if weak and not stat.S_ISLNK(found.st_mode):
            return one
    return None


def _others_write(found: os.stat_result) -> bool:
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:  # like /tmp: only owners replace what is in it
        return False
    by_group = bool(found.st_mode & stat.S_IWGRP) and found.st_gid not in (0, _STAFF)
    return by_group or bool(found.st_mode & stat.S_IWOTH)


def _way_to(path: Path) -> Iterator[Path]:
    """The path and its parents, as they are called and as they are without links."""
    yield from _unique((path, *path.parents, path.resolve(), *path.resolve().parents))


def _unique(paths: Iterable[Path]) -> Iterator[Path]:
    yield from dict.fromkeys(paths)


async def _tried(python: Path) -> None:
    """Run it once as somebody who owns nothing."""
    nobody = (f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--no-new-privs")
    try:
        await run("setpriv", *nobody, "--", python, "-P", "-c", _PARTS)
    except ToolFailed as exc:
        raise ProgramUnfit(f"other users cannot start {python}: {exc}") from exc
