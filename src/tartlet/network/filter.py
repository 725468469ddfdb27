"""One VM's filter in the kernel: put into force, replaced while packets flow, asked what it refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio

from tartlet.network.attachment import NetworkLost
from tartlet.network.judging import InForce, policy_steps
from tartlet.network.nft import Rules
from tartlet.network.plug import Plug
from tartlet.network.policy import Policy
from tartlet.network.ruleset import removal, table_for


class Filter:
    """The filter of one VM. Its policy can be replaced any number of times."""

    def __init__(self, rules: Rules, plug: Plug, in_force: InForce) -> None:
        self.plug = plug
        self._rules, self._in_force = rules, in_force
        self._turn = anyio.Lock()

    @property
    def policy(self) -> Policy | None:
        """What is in force."""
        return self._in_force.policy

    async def replace(self, policy: Policy | None) -> None:
        """Put another policy into force, between one packet and the next. Exposed ports stay as they are.

        Raises RulesRefused, and the former policy is in force still; NetworkLost.
        """
        async with self._turn:
            new = self._in_force.followed_by(policy)
            with anyio.CancelScope(shield=True):  # else nobody would know which of the two is in force
                for step in policy_steps(self.plug, new, self._in_force):
                    await self._rules.load(step)
                self._in_force = new


@asynccontextmanager
async def filtered(rules: Rules, plug: Plug, policy: Policy | None) -> AsyncGenerator[Filter]:
    """The filter of a VM for the length of the block; it stands when the block is entered.

    The tap need not exist yet. Raises RulesRefused, NetworkLost.
    """
    try:
        for step in table_for(plug, policy):
            await rules.load(step)
        yield Filter(rules, plug, InForce(policy=policy))
    finally:
        with anyio.CancelScope(shield=True), suppress(NetworkLost):  # lost: the tables went with their owner
            await rules.load(removal(plug))
