"""The process that holds one user's network: started by the first VM, ended when its last VM has ended.

It is the first process of a PID namespace, so everything it starts dies with it, and it has a mount namespace, in which
its files are in memory. Its main thread is in the host's network, another one inside. A VM talks to it over a socket
and is given a tap, and two ends of pipes: one that it and its QEMU keep open (when all copies are closed, the VM has
ended), and one that says how this process ended, if it does so first.

    python -m tartlet.network.namespace.holder DESCRIPTOR        (of the listening socket)
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address
from typing import Any

from tartlet.errors import UserError
from tartlet.network import preferences
from tartlet.network.attachment import NetworkMode
from tartlet.network.namespace.private_network import PrivateNetwork
from tartlet.network.shared import dnsmasq, wire
from tartlet.network.shared.addresses import MacTaken
from tartlet.network.shared.fabric import Fabric, Plugged
from tartlet.network.shared.helpers import Helper
from tartlet.network.shared.wire import Hangup

log = logging.getLogger(__name__)

_LOOK_AROUND = 5.0
"""Seconds between two looks at whether the host's network has become another one."""


class Holder:
    """The one loop of the process: connections, VMs that end, helpers that die."""

    def __init__(self, listener: socket.socket, network: PrivateNetwork) -> None:
        self._listener, self._network = listener, network
        self._selector = selectors.DefaultSelector()
        self._connections: dict[socket.socket, Plugged | None] = {}
        """Each with the VM that it speaks for, once that is known."""
        self._alarms: dict[int, int] = {}
        """One for each VM that runs: from the pipe that ends with it to the pipe that tells it of our end."""
        self._watched: set[str] = set()
        listener.setblocking(False)
        self._watch(listener, self._accept)

    def serve(self) -> None:
        """Return when nobody is left. Raises UserError when the network cannot be kept."""
        self._accept()
        while self._connections or self._alarms:
            waits = [wait for helper in self._network.helpers if (wait := self._kept(helper)) is not None]
            for key, _ in self._selector.select(min(waits, default=_LOOK_AROUND)):
                key.data()
            self._network.follow_the_host()
            if not self._connections and not self._alarms:
                self._accept()  # somebody may have come in this moment

    def give_up(self, reason: str) -> None:
        """Tell every VM why its network ends."""
        for alarm in self._alarms.values():
            os.write(alarm, reason.encode()[:4000])

    def _watch(self, what: int | socket.socket, then: Callable[[], None]) -> None:
        self._selector.register(what, selectors.EVENT_READ, then)

    def _kept(self, helper: Helper) -> float | None:
        """Watch it while it runs, start it when it does not; seconds until it is worth another attempt."""
        if helper.process is None and helper.waits() == 0:
            helper.begin()
        if helper.process is not None and helper.name not in self._watched:
            self._watched.add(helper.name)
            self._watch(helper.descriptor, partial(self._helper_ended, helper))
        return helper.waits()

    def _helper_ended(self, helper: Helper) -> None:
        self._selector.unregister(helper.descriptor)
        self._watched.discard(helper.name)
        helper.ended()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            if wire.peer_uid(connection) != os.getuid():
                connection.close()
                continue
            connection.setblocking(False)
            self._connections[connection] = None
            self._watch(connection, partial(self._answer, connection))

    def _answer(self, connection: socket.socket) -> None:
        try:
            message, _ = wire.receive(connection)
            self._reply(connection, message)
        except (Hangup, BlockingIOError, LookupError, TypeError, ValueError) as exc:
            # It is gone, does not read its answers, or speaks nonsense: no reason to fail those who do not.
            log.debug("a connection is dropped: %r", exc)
            self._selector.unregister(connection)
            self._connections.pop(connection)
            connection.close()

    def _reply(self, connection: socket.socket, message: dict[str, Any]) -> None:
        try:
            match message["do"]:
                case "attach":
                    self._attach(connection, message)
                case "status":
                    wire.send(connection, {"networks": self._network.described()})
                case "isolate":
                    self._isolate(connection, message)
                case _:
                    with self._network.new_socket(socket.SocketKind(message["kind"])) as new:
                        wire.send(connection, {}, [new.fileno()])
        except UserError as exc:
            taken = exc.mac if isinstance(exc, MacTaken) else None
            wire.send(connection, {"error": str(exc), "hint": exc.hint, "taken": taken})
        except OSError as exc:
            wire.send(connection, {"error": f"the network cannot be set up: {exc.strerror or exc}", "hint": None})

    def _attach(self, connection: socket.socket, message: dict[str, Any]) -> None:
        wish = message["wish"] and IPv4Address(message["wish"])
        mode, isolated = NetworkMode(message["mode"]), bool(message["isolated"])
        fabric, plugged = self._network.plug(message["vm"], message["mac"], mode, wish, isolated=isolated)
        self._connections[connection] = plugged
        ended, lifeline = os.pipe()
        hears, alarm = os.pipe()
        os.set_blocking(alarm, False)
        self._alarms[ended] = alarm
        self._watch(ended, partial(self._vm_ended, ended, fabric, plugged))
        users = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        given = [plugged.tap.descriptor, lifeline, hears, users]
        try:
            told = {"address": str(plugged.address), "tap": plugged.tap.name, **_described(fabric)}
            wire.send(connection, told, [*given, self._network.namespace])
        finally:
            for descriptor in given:
                os.close(descriptor)

    def _isolate(self, connection: socket.socket, message: dict[str, Any]) -> None:
        plugged = self._connections[connection]
        if plugged is None:
            raise UserError("this connection has no VM")
        self._network.isolate(plugged, bool(message["isolated"]))
        wire.send(connection, {})

    def _vm_ended(self, ended: int, fabric: Fabric, plugged: Plugged) -> None:
        self._selector.unregister(ended)
        os.close(ended)
        os.close(self._alarms.pop(ended))
        self._network.unplug(fabric, plugged)


def _described(fabric: Fabric) -> dict[str, str]:
    return {"bridge": fabric.served.bridge, "gateway": str(fabric.served.gateway)}


def main() -> None:
    """Make the network and hold it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    dnsmasq.shield_from_reloads()
    listener = socket.socket(fileno=int(sys.argv[1]))
    try:
        network = PrivateNetwork(preferences.read())
        network.way_out()
        network.check_helpers()
    except (UserError, OSError) as exc:
        sys.exit(str(exc))
    holder = Holder(listener, network)
    try:
        holder.serve()
    except (UserError, OSError) as exc:
        holder.give_up(str(exc))


if __name__ == "__main__":
    main()
