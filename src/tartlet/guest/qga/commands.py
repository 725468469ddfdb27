"""Commands and addresses by the QEMU guest agent, for guests that have no other."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence

import anyio

from tartlet.errors import UserError
from tartlet.guest.commands import Command, Outcome
from tartlet.guest.errors import AgentCannot, AgentFailed, NoAddressYet, beyond
from tartlet.guest.login import LOOK_UP, USER, Login, Prepared
from tartlet.guest.qga.agent import QemuGuestAgent
from tartlet.guest.qga.messages import ExecStatus, Interface

log = logging.getLogger(__name__)

LARGEST_INPUT = 16 << 20
"""Bytes of standard input: they travel with the command, before it starts."""

_KILL_PATIENCE = 10.0
"""Seconds in which a command nobody waits for any more must be gone."""


def beyond_qga(what: str) -> AgentCannot:
    """The error for what this agent cannot."""
    return beyond("the QEMU guest agent", what)


class QgaCommands:
    """Runs commands in a guest through its QEMU guest agent: whole, one input before, the output after."""

    def __init__(self, agent: QemuGuestAgent, mac: str) -> None:
        """`mac` is the VM's MAC address, by which its network interface is recognised."""
        self.agent = agent
        self.mac = mac.lower()
        self._login: tuple[int, Login] | None = None
        self._looking_up = anyio.Lock()

    def check(self, command: Command) -> None:
        """Refuse what this agent cannot. Raises AgentCannot."""
        for wanted, what in (
            (command.tty, "give a command a terminal (-t)"),
            (command.detach, "detach a command"),
            (command.user not in ("", USER, "root"), f"run a command as {command.user}"),
        ):
            if wanted:
                raise beyond_qga(what)

    async def execute(self, command: Command, stdin: bytes | None) -> Outcome:
        """Run a command to its end. Cancelled, it kills the command in the guest.

        Raises AgentUnavailable, AgentCannot, AgentFailed (also when the program cannot be started).
        """
        prepared = await self.prepared(command)
        status = await self.run(prepared.words, stdin)
        code = -1 if status.exitcode is None else status.exitcode
        refusal = prepared.refusal(code, status.err_data)
        if refusal is not None:
            raise AgentFailed(refusal)
        cut = status.out_truncated or status.err_truncated
        return Outcome(exit_code=code, stdout=status.out_data, stderr=status.err_data, cut=cut)

    async def prepared(self, command: Command) -> Prepared:
        """The words that run it as whom it should. Raises AgentUnavailable, AgentCannot, AgentFailed."""
        self.check(command)
        login = Login() if command.user == "root" else await self._found_login()
        if command.user == USER and not login.prefix:
            raise AgentFailed(f"the guest has no user {USER}")
        return login.prepared(command)

    async def address(self) -> str:
        """The IPv4 address of the VM's network interface. Raises AgentUnavailable while there is none, AgentFailed."""
        found = first_address(await self.agent.interfaces(), self.mac)
        if found is None:
            raise NoAddressYet
        return found

    async def has_any_file(self, *paths: str) -> bool:
        """Whether the guest has one of these files, as root sees it.

        Raises AgentUnavailable, AgentCannot, AgentFailed.
        """
        script = 'for file; do [ ! -e "$file" ] || exit 0; done; exit 1'
        return (await self.run(["/bin/sh", "-c", script, "sh", *paths], None)).exitcode == 0

    async def _found_login(self) -> Login:
        """As whom commands run; looked up once for each life of the agent."""
        async with self._looking_up:
            if self._login is None or self._login[0] != self.agent.session:
                session = self.agent.session
                status = await self.run(["/bin/sh", "-c", LOOK_UP], None)
                self._login = session, Login.parsed(status.out_data.decode(errors="replace"))
        return self._login[1]

    async def run(self, words: Sequence[str], stdin: bytes | None) -> ExecStatus:
        """Run words in the guest until they have ended; whoever cancels this kills them."""
        pid = await self.started(words, stdin)
        try:
            return await self.agent.ended(pid)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(_KILL_PATIENCE, shield=True):
                await self.kill(pid)
            raise

    async def started(self, words: Sequence[str], stdin: bytes | None) -> int:
        """Start words in the guest; their process. Raises AgentUnavailable, AgentCannot, AgentFailed."""
        try:
            pid = 0
            with anyio.CancelScope(shield=True):  # cancelled halfway, the number of what was started would be lost
                pid = await self.agent.start(words[0], words[1:], stdin)
        except AgentFailed as exc:
            info = await self.agent.info()
            if info.enabled("guest-exec"):
                raise
            raise AgentCannot(
                f"the QEMU guest agent {info.version} of this VM may not run commands",
                "its configuration in the guest forbids guest-exec: on Fedora and RHEL see /etc/sysconfig/qemu-ga",
            ) from exc
        return pid

    async def kill(self, pid: int) -> None:
        """End a command nobody waits for any more, and take its status so that the agent can forget it."""
        try:
            if (await self.agent.status(pid)).exited:
                return
            # `su` may wait as the command's parent, so its children go with it
            script = 'kill -KILL "$1" $(cat "/proc/$1/task/$1/children") 2>/dev/null; :'
            killer = await self.agent.start("/bin/sh", ["-c", script, "sh", str(pid)])
            await self.agent.ended(killer)
            await self.agent.ended(pid)
        except UserError as exc:
            log.debug("process %d in the guest was not seen ending: %s", pid, exc)


def first_address(interfaces: Sequence[Interface], mac: str) -> str | None:
    """The first usable IPv4 address of the interface with this MAC address (lower case); None when it has none."""
    for interface in interfaces:
        if interface.hardware_address.lower() == mac:
            for address in interface.ip_addresses:
                if address.ip_address_type == "ipv4" and usable(address.ip_address):
                    return address.ip_address
    return None


def usable(text: str) -> bool:
    """Whether this is an IPv4 address that others can reach."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)
