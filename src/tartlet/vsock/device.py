"""The vsock device: packets of the guest's rings on one side, sockets of the host on the other. It never waits.

Only the host begins connections; what the guest begins, and what belongs to no connection, is answered with a reset.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from typing import Protocol

from tartlet.vsock.guest_memory import BadAddress
from tartlet.vsock.packets import (
    CREDIT,
    CREDIT_REQUEST,
    DATA,
    HEADER,
    HOST_CID,
    LARGEST,
    NO_MORE_RECEIVED,
    NO_MORE_SENT,
    RESET,
    RESPONSE,
    SHUTDOWN,
    STREAM,
    Header,
)
from tartlet.vsock.ring import Broken, Chain, Ring, gathered, scattered
from tartlet.vsock.stream import Stream

MOST_STREAMS = 256
_MOST_ANSWERS = 256
"""Resets and the like that wait for room in the guest; with more of them nothing is taken from it."""

_AT_ONCE = 64
"""Packets of one direction before everybody else has a turn."""

_FIRST_PORT = 1 << 20


class Poll(Protocol):
    """What `select.epoll` is."""

    def register(self, fd: int, eventmask: int = ...) -> None: ...
    def modify(self, fd: int, eventmask: int) -> None: ...
    def unregister(self, fd: int) -> None: ...


class Device:
    """Its two rings are the caller's to start and stop."""

    def __init__(self, guest: int, poll: Poll) -> None:
        self.to_guest, self.from_guest = Ring(), Ring()
        self.by_descriptor: dict[int, Stream] = {}
        """The host's sockets that are watched."""
        self.guest, self._poll = guest, poll
        self._streams: dict[int, Stream] = {}
        """By the host's port."""
        self._last_words: set[Stream] = set()
        """The guest knows of them no more; what it has said is still being read."""
        self._line: deque[Stream] = deque()
        self._answers: deque[Header] = deque()
        self._port = _FIRST_PORT

    def open(self, host: socket.socket, guest_port: int) -> None:
        """Connect this socket to a port of the guest, once its driver is there. It is closed when that is refused."""
        if len(self.by_descriptor) >= MOST_STREAMS:
            host.close()
            return
        self._port = _FIRST_PORT + (self._port + 1 - _FIRST_PORT) % (1 << 30)
        stream = Stream(host, self._port, guest_port, self.guest)
        self._streams[stream.port] = stream
        self.by_descriptor[host.fileno()] = stream
        self._poll.register(host.fileno(), 0)
        self._line_up(stream)

    def host_event(self, stream: Stream, events: int) -> None:
        """Something has happened at a stream's socket."""
        if events & (select.EPOLLHUP | select.EPOLLERR) and not stream.host_gone:
            stream.host_gone = True
            self._unwatch(stream)
        if events & select.EPOLLIN:
            stream.read_host()
        if events & select.EPOLLOUT:
            stream.write_host()
        self._look_after(stream)

    def restarted(self) -> None:
        """The guest knows nothing of what was before."""
        for stream in [*self._streams.values(), *self._last_words]:
            if stream.is_requested:
                self._drop(stream)
        self._answers.clear()

    def turn(self) -> bool:
        """Move packets in both directions, not too many of them; whether there is more to do at once."""
        try:
            taken_all, given_all = self._take_packets(), self._give_packets()
            return not given_all or (not taken_all and len(self._answers) < _MOST_ANSWERS)
        except (Broken, BadAddress):
            self.to_guest.stop()
            self.from_guest.stop()
            self.restarted()
            return False
        finally:
            self.to_guest.tell()
            self.from_guest.tell()

    def _take_packets(self) -> bool:
        """Whether nothing is left that the guest has sent."""
        for _ in range(_AT_ONCE):
            if len(self._answers) >= _MOST_ANSWERS:
                return False
            chain = self.from_guest.take()
            if chain is None:
                return True
            self._take(chain)
            self.from_guest.give_back(chain, 0)
        return False

    def _take(self, chain: Chain) -> None:
        head = gathered(chain.readable, 0, HEADER.size)
        if len(head) < HEADER.size:
            raise Broken("a packet without a header")
        header = Header.read(head)
        stream = self._streams.get(header.target_port)
        if stream is None or not self._belongs(header, stream):
            self._refuse(header)
            return
        stream.credited(header)
        if header.operation == DATA:
            data = gathered(chain.readable, HEADER.size, min(header.length, LARGEST))
            if len(data) != header.length or not stream.heard(data):
                self._reset(stream)
                return
        self._obey(header, stream)
        self._look_after(stream)

    def _belongs(self, header: Header, stream: Stream) -> bool:
        told = (header.source, header.source_port, header.target, header.kind)
        return told == (self.guest, stream.guest_port, HOST_CID, STREAM)

    def _obey(self, header: Header, stream: Stream) -> None:
        if header.operation == RESPONSE:
            stream.accepted()
        elif header.operation == SHUTDOWN:
            stream.told_end(header.flags)
        elif header.operation == CREDIT_REQUEST:
            self._answers.append(stream.header(CREDIT))
        elif header.operation == RESET:
            del self._streams[stream.port]
            stream.told_end(NO_MORE_RECEIVED | NO_MORE_SENT)
            self._last_words.add(stream)

    def _give_packets(self) -> bool:
        """Whether nothing is left that could be said to the guest now."""
        for _ in range(_AT_ONCE):
            if not self._has_news():
                return True
            chain = self.to_guest.take()
            if chain is None:
                return True
            room = sum(len(buffer) for buffer in chain.writable)
            if room < HEADER.size:
                raise Broken("a buffer without room for a header")
            data = self._packet(min(room - HEADER.size, LARGEST))
            scattered(data, chain.writable)
            self.to_guest.give_back(chain, len(data))
        return False

    def _has_news(self) -> bool:
        """Whether there is something for the guest; who has nothing any more leaves the line."""
        if self._answers:
            return True
        while self._line:
            if not self._line[0].gone and self._line[0].has_news:
                return True
            self._line.popleft().queued = False
        return False

    def _packet(self, most: int) -> bytes:
        if self._answers:
            return self._answers.popleft().bytes()
        stream = self._line.popleft()
        stream.queued = False
        data = stream.packet(most)
        self._look_after(stream)
        return data

    def _look_after(self, stream: Stream) -> None:
        """Whatever has happened to a stream: see what it needs next."""
        if stream.gone:
            return
        if stream.host_gone:
            stream.read_host()
            if stream.said_all or not stream.is_accepted or stream in self._last_words:
                self._drop(stream)
                return
        if stream.finished:
            if stream not in self._last_words:
                self._answers.append(stream.header(RESET))
            self._drop(stream)
            return
        self._watch(stream)
        self._line_up(stream)

    def _watch(self, stream: Stream) -> None:
        if not stream.host_gone:
            wanted = (select.EPOLLIN if stream.wants_host else 0) | (select.EPOLLOUT if stream.wants_to_write else 0)
            if wanted != stream.watched:
                stream.watched = wanted
                self._poll.modify(stream.host.fileno(), wanted)

    def _unwatch(self, stream: Stream) -> None:
        self._poll.unregister(stream.host.fileno())

    def _line_up(self, stream: Stream) -> None:
        if not stream.queued and not stream.gone and stream.has_news:
            stream.queued = True
            self._line.append(stream)

    def _reset(self, stream: Stream) -> None:
        self._answers.append(stream.header(RESET))
        self._drop(stream)

    def _refuse(self, header: Header) -> None:
        """Nobody has an answer for this packet, unless it is a reset itself."""
        if header.operation != RESET:
            self._answers.append(
                Header(
                    header.target, self.guest, header.target_port, header.source_port, 0, header.kind, RESET, 0, 0, 0
                )
            )

    def _drop(self, stream: Stream) -> None:
        stream.gone = True
        self._streams.pop(stream.port, None)
        self._last_words.discard(stream)
        if not stream.host_gone:
            self._unwatch(stream)
        del self.by_descriptor[stream.host.fileno()]
        stream.host.close()
