"""One connection from the host into the guest: what waits in either direction, and how much may."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

from tartlet.vsock.packets import (
    CREDIT,
    DATA,
    HOST_CID,
    LARGEST,
    NO_MORE_RECEIVED,
    NO_MORE_SENT,
    REQUEST,
    SHUTDOWN,
    STREAM,
    Header,
    credit,
)

ROOM = 128 << 10
"""Bytes from the guest that are kept for a host that does not read; a guest that sends more loses the connection."""

ACCEPTED = b"\1"
"""What the host hears first when the guest has accepted; a connection that ends without it was refused."""

_WORTH_TELLING = ROOM // 2
_WRAP = (1 << 32) - 1


class Stream:
    """Reads and writes never block; whoever holds it asks `wants_*` what to wait for."""

    def __init__(self, host: socket.socket, port: int, guest_port: int, guest: int) -> None:
        host.setblocking(False)
        self.host, self.port, self.guest_port, self._guest = host, port, guest_port, guest
        self.queued = False
        """It stands in the line of those who have something to say to the guest."""
        self.gone = False
        """Nothing leads to it any more."""
        self.host_gone = False
        """The host has closed it in both directions: what it has said last is still delivered."""
        self.watched = 0
        """The events of the host's socket that are waited for."""
        self._requested = self._accepted = False
        self._host_ended = self._guest_ended = self._guest_deaf = False
        self._told_end = 0
        self._to_guest = b""
        self._to_host = bytearray()
        self._sent = self._forwarded = self._told_forwarded = 0
        self._peer_room = self._peer_forwarded = 0

    @property
    def is_requested(self) -> bool:
        """Whether the guest knows of it."""
        return self._requested

    @property
    def is_accepted(self) -> bool:
        """Whether the guest has accepted it."""
        return self._accepted

    # What the host says

    @property
    def wants_host(self) -> bool:
        """Whether more from the host can be taken."""
        return self._accepted and not (self._host_ended or self._guest_deaf or self._to_guest or self.host_gone)

    @property
    def wants_to_write(self) -> bool:
        """Whether something waits for the host to read."""
        return bool(self._to_host) and not self.host_gone

    def read_host(self) -> None:
        """Take what the host says, once."""
        if self._guest_deaf:
            self._host_ended = self._host_ended or self.host_gone
        if not self._accepted or self._host_ended or self._guest_deaf or self._to_guest:
            return
        try:
            data = self.host.recv(LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._to_guest = data
        else:
            self._host_ended = True

    def write_host(self) -> None:
        """Give the host what waits for it, as much as it takes."""
        while self._to_host:
            try:
                written = self.host.send(self._to_host)
            except BlockingIOError:
                return
            except OSError:  # it has gone, which is told in another way
                written = len(self._to_host)
            del self._to_host[:written]
            self._forwarded += written
        if self._guest_ended:
            with suppress(OSError):
                self.host.shutdown(socket.SHUT_WR)

    # What the guest says

    def accepted(self) -> None:
        """The guest has accepted the connection."""
        if not self._accepted:
            self._accepted = True
            with suppress(OSError):
                self.host.send(ACCEPTED)

    def credited(self, header: Header) -> None:
        """Every packet tells how much more the guest can take."""
        self._peer_room, self._peer_forwarded = header.room, header.forwarded

    def heard(self, data: bytes) -> bool:
        """Bytes for the host; False when they are more than the guest may send."""
        if not self._accepted or self._guest_ended or len(self._to_host) + len(data) > ROOM:
            return False
        self._to_host += data
        self.write_host()
        return True

    def told_end(self, flags: int) -> None:
        """The guest sends no more, or takes no more."""
        if flags & NO_MORE_RECEIVED:
            self._guest_deaf, self._to_guest = True, b""
        if flags & NO_MORE_SENT:
            self._guest_ended = True
            self.write_host()

    @property
    def finished(self) -> bool:
        """Whether the guest is done with it and all of its words are delivered."""
        return self._guest_ended and self._guest_deaf and not self._to_host

    # What is said to the guest

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell the guest now."""
        return next(self._news(), None) is not None

    def packet(self, most: int) -> bytes:
        """The next packet for the guest, with at most `most` bytes of data. Only with news."""
        operation, flags = next(self._news())
        data = b""
        if operation == REQUEST:
            self._requested = True
        elif operation == SHUTDOWN:
            self._told_end = flags
        elif operation == DATA:
            data = self._to_guest[: min(most, self._credit())]
            self._to_guest = self._to_guest[len(data) :]
            self._sent = (self._sent + len(data)) & _WRAP
        self._told_forwarded = self._forwarded
        return self.header(operation, length=len(data), flags=flags).bytes() + data

    @property
    def said_all(self) -> bool:
        """Whether the host has gone and the guest knows."""
        return self._told_end == NO_MORE_SENT | NO_MORE_RECEIVED

    def header(self, operation: int, *, length: int = 0, flags: int = 0) -> Header:
        """The header of a packet to the guest."""
        ports = (self.port, self.guest_port)
        return Header(HOST_CID, self._guest, *ports, length, STREAM, operation, flags, ROOM, self._forwarded & _WRAP)

    def _news(self) -> Iterator[tuple[int, int]]:
        """What there is to tell, the most urgent first: operations and flags."""
        if not self._requested:
            yield REQUEST, 0
            return
        if not self._accepted:
            return
        if self._forwarded - self._told_forwarded >= _WORTH_TELLING:
            yield CREDIT, 0
        if self._to_guest and self._credit():
            yield DATA, 0
        end = NO_MORE_SENT | NO_MORE_RECEIVED if self.host_gone else NO_MORE_SENT
        if self._host_ended and not self._to_guest and self._told_end != end:
            yield SHUTDOWN, end

    def _credit(self) -> int:
        return credit(self._peer_room, self._peer_forwarded, self._sent)
