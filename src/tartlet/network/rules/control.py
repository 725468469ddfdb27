"""The control channel of `--net-softnet-control-fd`: a peer reads and replaces a running VM's policy.

JSON-RPC 2.0, one object per line in both directions, over a connected Unix stream socket. Requests are answered one
after the other, each before the next one is read, so a peer that does not read holds up nobody but itself.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio

from tartlet.errors import UserError
from tartlet.host.beside import beside
from tartlet.network.policy.policy import Policy
from tartlet.network.rules.control_requests import (
    BAD_PARAMETERS,
    INTERNAL_ERROR,
    ISOLATION_FIXED,
    LONGEST_REQUEST,
    REVISION_REUSED,
    UNKNOWN_METHOD,
    Fault,
    call_in,
    identity_of,
    lists_in,
    parsed,
)
from tartlet.network.rules.filter import VmFilter

log = logging.getLogger(__name__)

_PIECE = 64 << 10

Isolate = Callable[[bool], Awaitable[None]]
"""Sets whether the VM's tap is an isolated port of its bridge."""


class BadControlDescriptor(UserError):
    """What `--net-softnet-control-fd` names cannot be served."""

    def __init__(self, descriptor: int, fault: str) -> None:
        super().__init__(
            f"--net-softnet-control-fd: descriptor {descriptor} {fault}",
            "pass one end of a connected pair of Unix stream sockets, under a number above 2",
        )


def ensure_inherited(descriptor: int) -> None:
    """Refuse a number under which this program was given nothing. Raises BadControlDescriptor.

    To be asked before an event loop starts: the number may afterwards mean one of its own sockets.
    """
    try:
        inherited = os.get_inheritable(descriptor)
    except OSError as exc:
        raise BadControlDescriptor(descriptor, "is not open") from exc
    if not inherited:
        raise BadControlDescriptor(descriptor, "was not inherited")


def adopted(descriptor: int) -> socket.socket:
    """The socket that was inherited under this number; no child inherits it further. Raises BadControlDescriptor."""
    if descriptor <= 2:
        raise BadControlDescriptor(descriptor, "is one of the standard streams")
    try:
        is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError as exc:
        raise BadControlDescriptor(descriptor, "is not open") from exc
    if not is_socket:
        os.close(descriptor)
        raise BadControlDescriptor(descriptor, "is not a socket")
    control = socket.socket(fileno=descriptor)
    if fault := _fault_of(control):
        control.close()
        raise BadControlDescriptor(descriptor, fault)
    control.setblocking(False)
    control.set_inheritable(False)
    return control


@asynccontextmanager
async def controlled(descriptor: int | None, filter_: VmFilter, isolate: Isolate | None = None) -> AsyncGenerator[None]:
    """Serve the channel for the length of the block, or nothing without a descriptor. Raises BadControlDescriptor.

    Without `isolate` the policy cannot be changed to one with the other isolation.
    """
    if descriptor is None:
        yield
        return
    with adopted(descriptor) as control:
        async with beside(partial(serve, control, filter_, isolate)):
            yield


async def serve(control: socket.socket, filter_: VmFilter, isolate: Isolate | None = None) -> None:
    """Answer requests until the peer closes its end; the policy that is then in force stays."""
    channel = _Channel(filter_, isolate)
    try:
        async for line in _lines(control):
            await _send(control, await channel.answer(line))
    except (BrokenPipeError, ConnectionResetError) as exc:
        log.debug("control channel: %s", exc)


class _Channel:
    def __init__(self, filter_: VmFilter, isolate: Isolate | None) -> None:
        self._filter, self._isolate = filter_, isolate

    async def answer(self, line: bytes | None) -> bytes:
        """The answer to a line; None stands for one that was too long."""
        identity: str | int | None = None
        try:
            request = parsed(line)
            identity = identity_of(request)
            told = {"result": await self._done(*call_in(request))}
        except Fault as fault:
            told = {"error": {"code": fault.code, "message": str(fault)}}
        return json.dumps({"jsonrpc": "2.0", "id": identity, **told}).encode() + b"\n"

    async def _done(self, method: str, params: object) -> dict[str, Any]:
        if method == "softnet.policy.get":
            if params not in (None, {}):
                raise Fault(BAD_PARAMETERS, "softnet.policy.get takes no parameters")
            return self._state()
        if method == "softnet.policy.set":
            await self._set(params)
            return self._state()
        raise Fault(UNKNOWN_METHOD, f"there is no method {method[:100]}")

    async def _set(self, params: object) -> None:
        allow, block, revision = lists_in(params)
        policy = _policy(self._policy(), allow, block)
        if revision is not None and revision == self._filter.revision and policy != self._policy():
            raise Fault(REVISION_REUSED, "desiredRevision names another policy already")
        if policy != self._policy():
            await self._replace(policy)
        self._filter.revision = revision

    async def _replace(self, policy: Policy) -> None:
        """Open the way to the neighbours last and close it first, so that no moment has more than one of the two."""
        turned = policy.isolated is not self._policy().isolated
        if turned and self._isolate is None:
            raise Fault(ISOLATION_FIXED, "0.0.0.0/0 cannot enter or leave `allow` while this VM runs")
        try:
            if turned and policy.isolated and self._isolate:
                await self._isolate(True)
            await self._filter.replace(policy)
            if turned and not policy.isolated and self._isolate:
                await self._isolate(False)
        except UserError as exc:
            raise Fault(INTERNAL_ERROR, str(exc)) from exc

    def _policy(self) -> Policy:
        policy = self._filter.policy
        assert policy is not None, "a VM without a policy has no control channel"
        return policy

    def _state(self) -> dict[str, Any]:
        policy = self._policy()
        gateway = self._filter.plug.gateway
        every = {(target.network or target.domain or gateway, target.ports, target.way)
                 for target in (*policy.allow, *policy.block)}  # fmt: skip
        state: dict[str, Any] = {
            "allow": [str(target) for target in policy.allow],
            "block": [str(target) for target in policy.block],
            "ruleCount": len({(str(place).removesuffix("/32"), ports, way) for place, ports, way in every}),
        }
        # Who speaks the channel's first version, with revisions, gets its members.
        if self._filter.revision is not None:
            state |= {"desiredRevision": self._filter.revision, "bridgeIsolation": policy.isolated}
        return state


def _fault_of(control: socket.socket) -> str | None:
    if control.type != socket.SOCK_STREAM:
        return "is not a stream socket"
    try:
        control.getpeername()
    except OSError:
        return "is not connected"
    return None if control.family == socket.AF_UNIX else "is not a Unix socket"


async def _lines(control: socket.socket) -> AsyncGenerator[bytes | None]:
    """The lines that arrive, without their ends; None for one that is too long."""
    held, skipping = bytearray(), False
    while True:
        await anyio.wait_readable(control)
        try:
            piece = control.recv(_PIECE)
        except BlockingIOError:
            continue
        if not piece:
            return
        *ends, rest = piece.split(b"\n")
        for end in ends:
            held += end
            yield None if skipping or len(held) > LONGEST_REQUEST else bytes(held)
            held, skipping = bytearray(), False
        held += rest
        if len(held) > LONGEST_REQUEST:
            held, skipping = bytearray(), True


async def _send(control: socket.socket, answer: bytes) -> None:
    left = memoryview(answer)
    while left:
        try:
            left = left[control.send(left, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            await anyio.wait_writable(control)


def _policy(former: Policy, allow: list[str], block: list[str]) -> Policy:
    try:
        return former.with_lists(allow, block)
    except UserError as exc:
        raise Fault(BAD_PARAMETERS, str(exc)) from exc
