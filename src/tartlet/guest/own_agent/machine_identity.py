"""A copy of a guest becomes a machine of its own when our agent first answers in it.

The agent remembers in the guest which machine it was told to be on. One that was told of another is in a copy, whether
that was made by cloning a disk, by unpacking an image, or in the memory of a suspended guest.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentFailed, AgentUnavailable
from tartlet.guest.own_agent.port_channel import exec_request
from tartlet.guest.own_agent.port_session import Hello, TartAgent
from tartlet.guest.own_agent.tart_agent import NAME

_PATIENCE = 120
"""Seconds in which a guest must have made its new keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineIdentity:
    """What one VM's guest shall know of the machine it runs on."""

    id: str
    """Never two VMs have the same."""
    name: str
    """The host name that a copy takes on."""
    parts: tuple[str, ...] = ("name", "id", "keys")
    """What a copy renews: host name, machine-id, SSH host keys, unless somebody else in the guest does."""

    async def greet(self, agent: TartAgent, hello: Hello) -> None:
        """Tell the guest, unless it knows. Raises AgentUnavailable, AgentFailed."""
        if hello.machine == self.id:
            return
        said = bytearray()

        async def keep(data: bytes) -> None:
            said.extend(data[:1000])

        command = Command(name=NAME, args=("--machine", self.id, self.name, *self.parts), user="root")
        async with agent.request(exec_request(command)) as channel:
            with anyio.move_on_after(_PATIENCE):
                end = await channel.outcome(keep, keep)
                if end.code != 0:
                    raise AgentFailed(said.decode(errors="replace"))
                return
        raise AgentUnavailable("the guest took too long to become a machine of its own")
