"""Our own agent brought into a guest that runs, through whatever gets in: another agent, or SSH."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio

from tartlet.errors import ToolMissing, UserError
from tartlet.guest.commands import Command, ignored
from tartlet.guest.errors import AgentUnavailable, escaped
from tartlet.guest.own_agent.agent_files import GROWER, copied
from tartlet.guest.own_agent.agent_package import agent_package
from tartlet.guest.own_agent.tart_agent import FILE
from tartlet.guest.rpc.channel import connect
from tartlet.guest.service.agents import Kind

_PACKAGE = "tart-agent.deb"

_SCRIPT = f"""\
set -e
refuse() {{ echo "$1" >&2; exit 3; }}
[ "$(id -u)" = 0 ] || refuse "this takes root in the guest"
command -v tar > /dev/null || refuse "the guest has no tar"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2> /dev/null ||
    refuse "the guest has no Python 3.8 or newer: install python3 in it"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -xof - -C "$work"
packaged() {{ # where Debian's packages are at home and the one that it needs is there
    [ -d /run/systemd/system ] && command -v dpkg > /dev/null || return 1
    python=$(dpkg-query -W -f '${{db:Status-Status}} ${{Version}}' python3 2> /dev/null) || return 1
    [ "${{python% *}}" = installed ] && dpkg --compare-versions "${{python#* }}" ge 3.8 || return 1
    DEBIAN_FRONTEND=noninteractive dpkg --install "$work/{_PACKAGE}" > "$work/said" 2>&1 < /dev/null
}}
put() {{ # whole or not at all: the agent may be running
    mkdir -p "$(dirname "$1")"
    cp "$work$1" "$1.new"
    chmod "$2" "$1.new"
    chown 0:0 "$1.new"
    mv "$1.new" "$1"
}}
restart() {{ # an agent that carries this out gives way when it is done, and is started again
    case $(tr '\\0' '\\n' < "/proc/$PPID/cmdline" | sed -n 3p) in
        */tart-agent) kill -HUP "$PPID" ;;
        *) "$@" ;;
    esac
}}
if packaged; then
    exit 0
fi
put {FILE} 755
put {GROWER} 755
if [ -d /run/systemd/system ]; then
    put /etc/udev/rules.d/60-tart-agent.rules 644
    put /etc/systemd/system/tart-agent.service 644
    command -v restorecon > /dev/null && restorecon {FILE} /etc/systemd/system/tart-agent.service || :
    systemctl daemon-reload
    udevadm control --reload
    udevadm trigger --subsystem-match=virtio-ports --action=add
    udevadm settle --timeout=10 || :
    restart systemctl restart tart-agent.service
elif command -v rc-update > /dev/null; then
    put /etc/init.d/tart-agent 755
    rc-update -q add tart-agent default
    restart rc-service tart-agent restart > "$work/said" 2>&1 < /dev/null ||
        refuse "OpenRC does not start it: $(tail -n 1 "$work/said")"
else
    refuse "the guest has neither systemd nor OpenRC: copy {FILE} in yourself and have it started"
fi
"""

_PATIENCE = 90
"""Seconds an installed agent gets to appear."""


class InstallFailed(UserError):
    """The agent could not be brought into the guest, or does not start there."""


async def install_agent(folder: Path) -> None:
    """Bring our agent into the running guest of a VM's `folder`, through the agent that it has. One of ours is renewed.

    Debian and Ubuntu get it as a package, others as files.
    Raises InstallFailed, AgentUnavailable, AgentCannot, AgentFailed.
    """
    complaint = bytearray()

    async def complain(data: bytes) -> None:
        complaint.extend(data[:1000])

    command = Command(name="/bin/sh", args=("-c", _SCRIPT), user="root", interactive=True)
    async with connect(folder) as channel:
        try:
            code = await channel.execute(command, complain, complain, _whole(_archive()))
        except AgentUnavailable:
            if channel.agent != Kind.TART:  # ours goes away when it is restarted, and this command with it
                raise
            code = 0
    if code != 0:
        raise _failed(complaint.decode(errors="replace"), code)
    await _appeared(folder)


async def install_agent_by_ssh(folder: Path, destination: str, *, port: int = 22) -> None:
    """The same over SSH, as the user of `destination` (`user@host`), who may become root by sudo.

    ssh(1) may ask for a password on this process's terminal. Raises InstallFailed, ToolMissing.
    """
    options = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
    remote = f"$([ \"$(id -u)\" = 0 ] || echo sudo) /bin/sh -c '{_quoted(_SCRIPT)}'"
    words = ["ssh", *options, "-p", str(port), "--", destination, remote]
    try:
        done = await anyio.run_process(words, input=_archive(), stdout=subprocess.DEVNULL, check=False)
    except FileNotFoundError as exc:
        raise ToolMissing("ssh", "install it: apt install openssh-client") from exc
    if done.returncode != 0:
        raise _failed((done.stderr or b"").decode(errors="replace"), done.returncode)
    await _appeared(folder)


def _archive() -> bytes:
    """The package and the files as a tar archive: which of them it is going to be shows in the guest."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for path, content in {**copied(), _PACKAGE: agent_package()[1]}.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.mode, entry.size = 0o644, len(content)
            made.addfile(entry, io.BytesIO(content))
    return written.getvalue()


async def _appeared(folder: Path) -> None:
    """Wait for it. Raises InstallFailed."""
    deadline = anyio.current_time() + _PATIENCE
    while anyio.current_time() < deadline:
        try:
            async with connect(folder, 5) as channel:
                await channel.execute(Command(name="true", tty=True), ignored, ignored)
        except UserError:
            await anyio.sleep(0.5)
            continue
        if channel.agent == Kind.TART:
            return
    raise InstallFailed(
        "the agent was installed and does not answer", "look at it in the guest: systemctl status tart-agent"
    )


async def _whole(data: bytes) -> AsyncGenerator[bytes]:
    yield data


def _failed(complaint: str, code: int) -> InstallFailed:
    lines = complaint.strip().splitlines()
    return InstallFailed(f"the agent could not be installed: {escaped(lines[-1]) if lines else f'exit code {code}'}")


def _quoted(script: str) -> str:
    """For the inside of single quotes."""
    return script.replace("'", "'\\''")
