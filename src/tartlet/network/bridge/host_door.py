"""The privileged process's door: who comes in, and when it is not needed any more."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from tartlet.network.bridge.host_answers import Conversation, turned_away
from tartlet.network.bridge.host_service import Service
from tartlet.network.shared import wire
from tartlet.network.shared.wire import Hangup

log = logging.getLogger(__name__)

_PAUSE = 0.1
"""Seconds without accepting when this process has no descriptor left."""

_CONNECTIONS_BESIDES = 16
"""Connections that a user may have beyond those of his VMs."""


class Door:
    """Where connections are accepted."""

    def __init__(self, service: Service, tasks: TaskGroup, *, admits: Callable[[int], bool]) -> None:
        """`admits` tells which users the service is for."""
        self._service, self._tasks, self._admits = service, tasks, admits
        self._connections: Counter[int] = Counter()

    async def keep(self, listener: socket.socket, linger: float) -> None:
        """Return when nobody has been here for `linger` seconds."""
        self._tasks.start_soon(self._accept, listener)
        while True:
            changed = self._service.changed
            with anyio.move_on_after(None if self._busy() else linger):
                await changed.wait()
                continue
            if not self._busy():
                return

    def _busy(self) -> bool:
        return bool(self._service.places.total() or self._connections.total())

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            await anyio.wait_readable(listener)
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as exc:  # no descriptor left, or the other side is gone already
                log.warning("cannot accept: %s", exc)
                await anyio.sleep(_PAUSE)
                continue
            uid = wire.peer_uid(connection)
            if uid and self._connections[uid] >= self._service.quota + _CONNECTIONS_BESIDES:
                log.info("user %d has too many connections", uid)
                connection.close()
                continue
            connection.setblocking(False)
            self._service.counted(self._connections, uid, 1)
            self._tasks.start_soon(self._served, connection, uid)

    async def _served(self, connection: socket.socket, uid: int) -> None:
        try:
            with connection:
                if self._admits(uid):
                    await Conversation(self._service, connection, uid).held()
                else:
                    await turned_away(connection)
        except (Hangup, ValueError, RecursionError, TimeoutError) as exc:
            # It is gone, does not read its answers, or speaks nonsense: no reason to fail those who do not.
            log.info("a connection of user %d ends: %r", uid, exc)
        finally:
            self._service.counted(self._connections, uid, -1)
