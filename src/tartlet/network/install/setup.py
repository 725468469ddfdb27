"""`tart network setup` and `remove`: the helper with rights on this host's network, installed and taken away again.

What setup makes is written down in `/etc/tartlet/setup.json` before it is made, and removal takes away just that.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from tartlet.errors import ToolMissing, UserError
from tartlet.host.process import run
from tartlet.network.install import setup_files as files
from tartlet.network.install import setup_program
from tartlet.network.install.setup_accounts import Group, Member, User, entry
from tartlet.network.install.setup_manifest import MANIFEST, made_before, note_made
from tartlet.network.install.setup_steps import HOST, Enabled, Step, Written, within
from tartlet.network.preferences import SYSTEM_FILE
from tartlet.network.rules.guard import TAP_PREFIX
from tartlet.network.shared.links import BRIDGED_TAP_PREFIX
from tartlet.network.shared.rights import RightsMissing
from tartlet.network.shared.wire import INSTALLED

_SYSTEMD_RUNS = Path("/run/systemd/system")
"""sd_booted(3)."""


class HelperInUse(UserError):
    """VMs are on networks of this host, which the helper may hold for them."""

    def __init__(self, taps: Sequence[str]) -> None:
        super().__init__(
            f"VMs run on this host's networks, by {', '.join(taps)}", "stop them first; tart network status names yours"
        )
        self.taps = tuple(taps)


class NoSuchUser(UserError):
    """Somebody who is to be a member of the group is unknown here."""

    def __init__(self, name: str) -> None:
        super().__init__(f"this host knows no user {name}", "give the login names of people: --user NAME")


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemChange:
    """What is about to be done to the system."""

    steps: tuple[str, ...]
    """One line each, in their order; none when there is nothing to do."""
    notes: tuple[str, ...] = ()
    """What is good to know beside."""


Agreed = Callable[[SystemChange], bool]


def _everything(_: SystemChange) -> bool:
    return True


async def network_setup(
    *,
    users: Sequence[str] = (),
    sudo: bool = False,
    program: Path | None = None,
    root: Path = HOST,
    agreed: Agreed = _everything,
) -> SystemChange | None:
    """Install the helper that gives VMs a place in this host's own network, for members of the group `tart`.

    `users` join the group. By systemd it is started when it is needed; `sudo`, or a host without systemd, gets a line
    for sudo instead. `agreed` is shown what is to be done and may refuse: then nothing is, and None is returned.
    `program` is the helper, the installed one without it. `root` is the folder that has the host's `/etc`.
    Raises RightsMissing, NoSuchUser, ProgramUnfit, AccountTaken, ToolMissing, ToolFailed, FileTrouble.
    """
    _check_rights("setup", root)
    for user in users:
        _check_user(user, root)
    by_sudo = sudo or not within(root, _SYSTEMD_RUNS).is_dir()
    helper = program or setup_program.installed()
    await setup_program.check(helper)
    if by_sudo:
        await _check_sudoers(files.sudoers(helper))
    missing = [step for step in _steps(users, helper, root, by_sudo=by_sudo) if not step.in_place()]
    change = SystemChange(steps=tuple(step.says for step in missing), notes=_notes(users, sudo=sudo, by_sudo=by_sudo))
    if missing and not agreed(change):
        return None
    with _readable_by_all():
        for step in missing:
            note_made(root, [*made_before(root), step.key])
            await step.make()
    return change


async def network_remove(*, root: Path = HOST, agreed: Agreed = _everything) -> SystemChange | None:
    """Take away what `network_setup` made and nothing else. Settings that were changed stay.

    Returns like it. Raises RightsMissing, HelperInUse, ToolFailed, FileTrouble.
    """
    _check_rights("remove", root)
    if root == HOST:
        _check_unused()
    names = made_before(root)
    members = [name.removeprefix("member ") for name in names if name.startswith("member ")]
    known = [step for way in (True, False) for step in _steps(members, Path("/"), root, by_sudo=way)]
    steps = [step for step in reversed(list({step.key: step for step in known}.values())) if step.key in names]
    change = SystemChange(steps=tuple(step.unsays for step in steps))
    if steps and not agreed(change):
        return None
    with _readable_by_all():
        for step in steps:
            await step.undo()
            note_made(root, [name for name in made_before(root) if name != step.key])
    return change


@contextmanager
def _readable_by_all() -> Generator[None]:
    """Give files and folders their modes, whatever the caller's umask is."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def is_installed(root: Path = HOST) -> bool:
    """Whether `network_setup` has been here, and `network_remove` has not."""
    return within(root, MANIFEST).exists()


def _steps(users: Iterable[str], program: Path, root: Path, *, by_sudo: bool) -> list[Step]:
    accounts: list[Step] = [Group(name=files.ACCOUNT, root=root)]
    if not by_sudo:
        accounts.append(User(name=files.ACCOUNT, root=root))
    members = [Member(name=user, group=files.ACCOUNT, root=root) for user in users]
    settings = Written(
        path=SYSTEM_FILE,
        content=files.system_settings(),
        about="settings for all users, each as a comment that shows its default",
        belongs_to_admin=True,
        root=root,
    )
    return [*accounts, *members, settings, *(_sudo(program, root) if by_sudo else _systemd(program, root))]


def _sudo(program: Path, root: Path) -> list[Step]:
    return [
        Written(
            path=files.SUDOERS,
            content=files.sudoers(program),
            about=f"members of the group {files.ACCOUNT} may start {program} as root without a password",
            mode=0o440,
            root=root,
        )
    ]


def _systemd(program: Path, root: Path) -> list[Step]:
    service = Written(
        path=files.UNITS / files.SERVICE_UNIT,
        content=files.service_unit(program),
        about=f"{program} as the user {files.ACCOUNT}, with {', '.join(files.RIGHTS)} and no other right",
        then=_read_again if root == HOST else None,
        root=root,
    )
    listening = Written(
        path=files.UNITS / files.SOCKET_UNIT,
        content=files.socket_unit(),
        about=f"systemd listens on {INSTALLED} for members of the group {files.ACCOUNT}, and starts it when needed",
        then=_read_again if root == HOST else None,
        root=root,
    )
    enabled = Enabled(
        unit=files.SOCKET_UNIT, service=files.SERVICE_UNIT, folder=files.UNITS, socket=INSTALLED, root=root
    )
    return [service, listening, enabled]


async def _check_sudoers(text: str) -> None:
    """Have sudo read it before it is in its place, where a mistake would keep everybody from using sudo."""
    if shutil.which("visudo") is None:
        raise ToolMissing("visudo", "without systemd sudo has to start the helper: apt install sudo")
    with NamedTemporaryFile("w", prefix="tartlet-") as beside:
        beside.write(text)
        beside.flush()
        await run("visudo", "--check", "--quiet", f"--file={beside.name}")


async def _read_again() -> None:
    await run("systemctl", "daemon-reload")


def _notes(users: Sequence[str], *, sudo: bool, by_sudo: bool) -> tuple[str, ...]:
    found: list[str] = []
    if by_sudo and not sudo:
        found.append("systemd does not run on this host, so the helper is started by sudo")
    if by_sudo:
        found.append("VMs use it where their user says so: tart network set backend bridge")
    if users:
        names = ", ".join(users)
        found.append(f"after that {names} has to log in anew to be in the group")
    else:
        found.append("nobody is added to the group; give --user NAME, once for each who may use it")
    return tuple(found)


def _check_rights(verb: str, root: Path) -> None:
    if root == HOST and os.geteuid() != 0:
        raise RightsMissing(verb)


def _check_user(name: str, root: Path) -> None:
    if root != HOST:
        known = entry(root / "etc/passwd", name) is not None
    else:
        import pwd

        try:
            known = bool(pwd.getpwnam(name))
        except KeyError:
            known = False
    if not known:
        raise NoSuchUser(name)


def _check_unused() -> None:
    taps = [name for _, name in socket.if_nameindex() if name.startswith((TAP_PREFIX, BRIDGED_TAP_PREFIX))]
    if taps:
        raise HelperInUse(taps)
