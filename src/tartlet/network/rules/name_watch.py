"""Allowed names: the VM's questions to its DNS pass through here, and an answer is handed on when its way is open.

So a guest that connects the moment it knows an address is never too early.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from tartlet.errors import UserError
from tartlet.network.policy.dns_answers import asked_name, covers, found
from tartlet.network.rules.filter import Filter
from tartlet.network.rules.nft import Rules
from tartlet.network.rules.ruleset import name_server_table

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds after which an answer is not waited for any more."""

MOST_OPEN = 512
"""Questions without an answer. Beyond them the oldest is given up."""

_LONGEST = 65535
_DNS = 53


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    client: tuple[str, int]
    mark: bytes
    """The two bytes by which the guest tells its questions apart."""
    name: str | None
    asked: float


@asynccontextmanager
async def names_watched(
    filter_: Filter, rules: Rules, guests: socket.socket, servers: socket.socket
) -> AsyncGenerator[None]:
    """Stand between the VM and its name server for the length of the block.

    `guests` and `servers` are UDP sockets of the VM's network, used here until the end. Raises OSError, RulesRefused.
    """
    gateway = str(filter_.plug.gateway)
    for end in (guests, servers):
        end.setblocking(False)
    guests.bind((gateway, 0))
    servers.connect((gateway, _DNS))
    relay = _Relay(filter_, guests, servers)
    await rules.load(name_server_table(filter_.plug, guests.getsockname()[1]))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay.questions)
        tasks.start_soon(relay.answers)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


class _Relay:
    def __init__(self, filter_: Filter, guests: socket.socket, servers: socket.socket) -> None:
        self._filter, self._guests, self._servers = filter_, guests, servers
        self._open: dict[bytes, _Question] = {}

    async def questions(self) -> None:
        """Hand on what the VM asks, and nobody else."""
        while True:
            await anyio.wait_readable(self._guests)
            try:
                packet, client = self._guests.recvfrom(_LONGEST)
                if client[0] == str(self._filter.plug.address) and len(packet) > 2:
                    self._servers.send(self._noted(packet, client) + packet[2:])
            except OSError as exc:  # also what the name server's host says of an earlier packet
                log.debug("a question was lost: %s", exc)

    async def answers(self) -> None:
        """Hand on what the name server says."""
        while True:
            await anyio.wait_readable(self._servers)
            try:
                packet = self._servers.recv(_LONGEST)
                question = self._open.pop(packet[:2], None)
                if question is not None and question.asked > time.monotonic() - PATIENCE:
                    await self._learn(question, packet)
                    self._guests.sendto(question.mark + packet[2:], question.client)
            except OSError as exc:
                log.debug("an answer was lost: %s", exc)

    def _noted(self, packet: bytes, client: tuple[str, int]) -> bytes:
        """Two bytes of our own for a question: two of the guest's programs may have chosen the same."""
        while len(self._open) >= MOST_OPEN:
            self._open.pop(next(iter(self._open)))
        while (mark := os.urandom(2)) in self._open:
            pass
        name = asked_name(packet)
        self._open[mark] = _Question(client=client, mark=packet[:2], name=name, asked=time.monotonic())
        return mark

    async def _learn(self, question: _Question, packet: bytes) -> None:
        name, policy = question.name, self._filter.policy
        if name is None or policy is None or not any(covers(domain, name) for domain in policy.domains):
            return
        try:
            await self._filter.learn(name, found(packet, name))
        except UserError as exc:  # the guest gets its answer, and is refused at the address
            log.debug("the way to %s stays closed: %s", name, exc)
