"""The rooms that package scripts run in: a chroot needs root, and an ordinary user has it in a user namespace.

There the user is root and the user's subordinate ids (subuid(5)) are everybody else, so files keep their owners.
"""

from __future__ import annotations

import os

from tartlet.errors import ToolFailed, UserError
from tartlet.host.process import run


class NoNamespace(UserError):
    """This user may not make the namespace a build needs."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"cannot make a user namespace to build in: {reason}",
            "install uidmap and give this user a range in /etc/subuid and /etc/subgid "
            "(usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER), or build as root",
        )


def boxed(*words: str | os.PathLike[str]) -> list[str]:
    """The words that run `words` as root of its own mounts and processes; all of them die with this process."""
    return [
        *("setpriv", "--pdeathsig", "KILL", "unshare"),
        *(() if os.geteuid() == 0 else ("--map-root-user", "--map-auto")),
        *("--mount", "--pid", "--fork", "--kill-child", "--"),
        *(os.fspath(word) for word in words),
    ]


async def check() -> None:
    """Raises NoNamespace, ToolMissing."""
    try:
        await run(*boxed("true"))
    except ToolFailed as exc:
        raise NoNamespace(exc.stderr.strip() or f"unshare ended with {exc.exit_status}") from exc
