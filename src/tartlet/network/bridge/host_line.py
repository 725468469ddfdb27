"""A VM's line to the privileged process: its place in the host's network, and its filter, which that process holds."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import IO, Any

import anyio

from tartlet.network.attachment import AttachRequest, NetworkLost
from tartlet.network.policy.policy import Policy
from tartlet.network.record import NetworkRecord
from tartlet.network.rules.filter import Refused as Destination
from tartlet.network.rules.plug import Plug
from tartlet.network.shared import wire
from tartlet.network.shared.conversation import Asking
from tartlet.network.shared.keepers import Keeper, start_apart, taken_in
from tartlet.network.shared.wire import Hangup

NAME = "bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlace:
    """What one VM was given in the host's network."""

    plug: Plug
    tap: int
    """Descriptor of the tap, for QEMU; -1 in an answer about a VM that has one already."""
    lifeline: int
    """QEMU inherits it, and does nothing with it: the place is given back when its last copy is closed."""
    standing: int
    """Likewise: the bridge stays as long as a copy is open."""
    alarm: int

    async def ended(self) -> str:
        """Wait until the place is lost, and tell the reason; it is empty when the process itself has ended."""
        await anyio.wait_readable(self.alarm)
        return os.read(self.alarm, 4096).decode(errors="replace")

    def close(self) -> None:
        """Give up this process's copies."""
        for descriptor in (self.tap, self.lifeline, self.standing, self.alarm):
            if descriptor >= 0:
                os.close(descriptor)


class HostLine(Asking):
    """A connection to the privileged process, which stands for one VM. It has the face of a `Filter`, too."""

    def __init__(self, connection: socket.socket, place: HostPlace, policy: Policy | None) -> None:
        """Both are this object's now, until `close`."""
        super().__init__(connection)
        self.place, self._policy = place, policy
        self.revision: str | None = None
        self._refused: list[Destination] = []

    @property
    def plug(self) -> Plug:
        """Where the filter stands."""
        return self.place.plug

    @property
    def policy(self) -> Policy | None:
        """What is in force."""
        return self._policy

    async def replace(self, policy: Policy) -> None:
        """Put another policy into force, between one packet and the next. Raises Refused, NetworkLost."""
        await self._told({"do": "replace", **_lists(policy)})
        self._policy = policy

    async def isolate(self, isolated: bool) -> None:
        """Whether this VM exchanges nothing with other isolated ones. Raises Refused, NetworkLost."""
        await self._told({"do": "isolate", "isolated": isolated})

    async def refused(self) -> list[Destination]:
        """The destinations that the policy has refused. Raises Refused, NetworkLost."""
        told = (await self._told({"do": "refused"}))["refused"]
        if told is not None:  # else nothing has changed
            self._refused = [_destination(one) for one in told]
        return self._refused

    async def hits(self) -> dict[str, int]:
        """How many frames were dropped, by reason. Raises Refused, NetworkLost."""
        found: dict[str, int] = (await self._told({"do": "hits"}))["hits"]
        return found

    async def move(self, keeper: Keeper, request: AttachRequest, *, names: bool) -> None:
        """Have another process take the VM in, as it is now, after the former one has ended.

        The guest keeps its tap and its address. Raises BackendUnusable, MacTaken.
        """
        keep = NetworkRecord(backend=NAME, address=None, guest_address=str(self.plug.address))
        moving = partial(
            _attached, request=replace(request, keep=keep), policy=self.policy, names=names, tap=self.plug.tap
        )
        connection, place = await taken_in(keeper, lambda one: moving(Asking(one)))
        former_connection, former = self._connection, self.place
        self._connection, self.place = connection, replace(place, tap=former.tap)
        former_connection.close()
        replace(former, tap=-1).close()

    def close(self) -> None:
        """Give the place back, as far as it is this process's."""
        self._connection.close()
        self.place.close()

    async def _told(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self.ask(question)
        except (Hangup, TimeoutError) as exc:
            raise NetworkLost("the process that holds the host's network for VMs does not answer") from exc


@asynccontextmanager
async def host_joined(
    keeper: Keeper, request: AttachRequest, policy: Policy | None, *, names: bool
) -> AsyncGenerator[HostLine]:
    """A place in the host's network for the length of the block, with that policy in force.

    `names`: domain names may be allowed later. Raises BackendUnusable: there is no such process, it does not answer, or
    will not take this VM.
    """
    attached = partial(_attached, request=request, policy=policy, names=names)
    with closing(HostLine(*await taken_in(keeper, lambda one: attached(Asking(one))), policy)) as line:
        yield line


def by_socket() -> Keeper:
    """The process that `tart network setup` installs."""
    return Keeper(backend=NAME, address=str(socket_path()), owners=None, start=None)


def on_demand() -> Keeper:
    """The process that the first VM starts, as root or by sudo, and that ends with the last one."""
    owners = frozenset({0, os.getuid()})
    return Keeper(backend=NAME, address=wire.host_name(), owners=owners, start=_started)


def socket_path() -> Path:
    """Where the installed process listens; the environment variable `TART_NET_SOCKET` names another place."""
    return Path(os.environ.get("TART_NET_SOCKET") or wire.INSTALLED)


def sudo_words() -> list[str]:
    """The words that start it for an ordinary user. The listening socket is its standard input, which sudo hands on."""
    beside = Path(sys.executable).with_name(wire.HELPER)
    found = str(beside) if beside.exists() else shutil.which(wire.HELPER)
    return ["sudo", "--non-interactive", found or wire.HELPER, "--listen-fd", "0"]


def _started(listener: socket.socket) -> IO[bytes]:
    as_root = [sys.executable, "-P", "-m", "tartlet.network.bridge.host_process", "--listen-fd", "0"]
    return start_apart(as_root if os.geteuid() == 0 else sudo_words(), listener)


async def _attached(
    line: Asking, *, request: AttachRequest, policy: Policy | None, names: bool, tap: str | None = None
) -> HostPlace:
    """`tap` is the one that the VM has already."""
    mac, keep = request.mac.lower(), request.keep
    exposed = [f"{one.port}:{one.guest_port}" for one in policy.expose] if policy else []
    softnet = _lists(policy) if policy and request.mode == "softnet" else {}
    told, (*new, lifeline, alarm, standing) = await line.asked(
        {
            "do": "attach",
            "vm": request.vm,
            "mac": mac,
            "mode": str(request.mode),
            "wish": keep.guest_address if keep else None,
            "expose": exposed,
            "names": names,
            "tap": tap,
            **softnet,
        }
    )
    plug = Plug(
        tap=told["tap"],
        bridge=told["bridge"],
        mac=mac,
        address=IPv4Address(told["address"]),
        gateway=IPv4Address(told["gateway"]),
    )
    return HostPlace(plug=plug, tap=new[0] if new else -1, lifeline=lifeline, alarm=alarm, standing=standing)


def _destination(told: dict[str, Any]) -> Destination:
    address = IPv4Address(told.pop("destination"))
    return Destination(destination=address, **told)


def _lists(policy: Policy) -> dict[str, list[str]]:
    return {"allow": [str(one) for one in policy.allow], "block": [str(one) for one in policy.block]}
