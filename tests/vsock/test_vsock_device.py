"""The vsock device, as a guest's driver sees it: connections, credit, ends, and whom it refuses."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Generator

import pytest

from tartlet.vsock.device import MOST_STREAMS
from tartlet.vsock.packets import (
    CREDIT,
    CREDIT_REQUEST,
    DATA,
    HOST_CID,
    NO_MORE_RECEIVED,
    NO_MORE_SENT,
    REQUEST,
    RESET,
    RESPONSE,
    SHUTDOWN,
    STREAM,
    Header,
)
from tartlet.vsock.stream import ROOM
from vsock_driver import GUEST, SIZE, Driver, driver

BOTH = NO_MORE_RECEIVED | NO_MORE_SENT


@pytest.fixture
def guest() -> Generator[Driver]:
    with driver() as made:
        yield made


def test_it_tells_the_guest_its_address(guest: Driver) -> None:
    guest.ask(24, struct.pack("<III", 0, 8, 0) + bytes(8))
    assert struct.unpack("<IIIQ", guest.answer())[3] == GUEST


def test_bytes_flow_both_ways(guest: Driver) -> None:
    host, request = guest.accepted()
    with host:
        assert request[:6] == (HOST_CID, GUEST, request.source_port, 8080, 0, STREAM)
        assert (request.operation, request.room) == (REQUEST, ROOM)
        host.sendall(b"question")
        said = guest.next()
        assert (said.header.operation, said.data) == (DATA, b"question")
        guest.reply(request, DATA, b"answer")
        assert host.recv(100) == b"answer"


def test_a_refused_connection_ends_without_a_word(guest: Driver) -> None:
    with guest.connect(1) as host:
        guest.reply(guest.next().header, RESET)
        assert host.recv(1) == b""


def test_what_is_asked_before_the_driver_is_there_waits_for_it() -> None:
    with driver(started=False) as guest, guest.connect() as host:
        assert guest.alive()
        guest.start()
        guest.give_buffers()
        guest.reply(guest.next().header, RESPONSE)
        assert host.recv(1) == b"\1"


@pytest.mark.parametrize("operation", [REQUEST, RESPONSE, SHUTDOWN, DATA, CREDIT, CREDIT_REQUEST, 77])
def test_what_the_guest_begins_is_reset(guest: Driver, operation: int) -> None:
    guest.send(Header(GUEST, HOST_CID, 1024, 22, 0, STREAM, operation, 0, 1 << 18, 0))
    refusal = guest.next().header
    assert (refusal.source_port, refusal.target_port, refusal.operation) == (22, 1024, RESET)


def test_a_reset_is_not_answered(guest: Driver) -> None:
    guest.send(Header(GUEST, HOST_CID, 1024, 22, 0, STREAM, RESET, 0, 0, 0))
    host, _ = guest.accepted()
    host.close()


@pytest.mark.parametrize(("field", "value"), [("source", 4), ("target", 1), ("source_port", 8081), ("kind", 2)])
def test_nobody_else_speaks_for_a_connection(guest: Driver, field: str, value: int) -> None:
    host, request = guest.accepted()
    with host:
        right = Header(GUEST, HOST_CID, 8080, request.source_port, 1, STREAM, DATA, 0, 1 << 18, 0)
        guest.send(right._replace(**{field: value}), b"x")
        assert guest.next().header.operation == RESET
        guest.reply(request, DATA, b"mine")
        assert host.recv(100) == b"mine"


def test_the_host_ends_its_half_and_hears_the_rest(guest: Driver) -> None:
    host, request = guest.accepted()
    with host:
        host.sendall(b"last words")
        host.shutdown(socket.SHUT_WR)
        assert guest.next().data == b"last words"
        end = guest.next().header
        assert (end.operation, end.flags) == (SHUTDOWN, NO_MORE_SENT)
        guest.reply(request, DATA, b"answer")
        guest.reply(request, SHUTDOWN, flags=BOTH)
        assert host.recv(100) == b"answer"
        assert host.recv(100) == b""
        assert guest.next().header.operation == RESET


def test_the_guest_ends_its_half_and_hears_the_rest(guest: Driver) -> None:
    host, request = guest.accepted()
    with host:
        guest.reply(request, SHUTDOWN, flags=NO_MORE_SENT)
        assert host.recv(100) == b""
        host.sendall(b"more")
        assert guest.next().data == b"more"


def test_a_host_that_goes_is_heard_to_its_end(guest: Driver) -> None:
    host, _ = guest.accepted()
    host.sendall(b"x" * 100_000)
    host.close()
    heard = b""
    while (said := guest.next()).header.operation == DATA:
        heard += said.data
    assert heard == b"x" * 100_000
    assert (said.header.operation, said.header.flags) == (SHUTDOWN, BOTH)


def test_the_last_words_before_a_reset_arrive(guest: Driver) -> None:
    host, request = guest.accepted()
    with host:
        guest.reply(request, DATA, b"last words")
        guest.reply(request, RESET)
        assert host.recv(100) == b"last words"
        assert host.recv(100) == b""


def test_no_more_is_sent_than_the_guest_has_room_for(guest: Driver) -> None:
    host, request = guest.accepted(room=10)
    with host:
        host.sendall(b"0123456789abcde")
        assert guest.next().data == b"0123456789"
        assert guest.heard(0.3) is None
        guest.forwarded = 10
        guest.reply(request, CREDIT, room=10)
        assert guest.next().data == b"abcde"


def test_a_host_that_does_not_read_stops_the_guest_and_nothing_else(guest: Driver) -> None:
    slow, request = guest.accepted()
    with slow:
        sent, before = 0, guest.resident()
        while sent < 8 << 20:  # as a driver does: no more than the device has room for
            guest.reply(request, CREDIT_REQUEST)
            told = guest.next().header
            room = told.room - (sent - told.forwarded)
            if not room:
                break
            piece = min(room, 65536)
            guest.reply(request, DATA, bytes(piece))
            sent += piece
        assert sent < 2 << 20  # what the device and the host's socket hold
        assert guest.resident() - before < 4 << 20
        other, theirs = guest.accepted()
        with other:
            guest.reply(theirs, DATA, b"quick")
            assert other.recv(100) == b"quick"
        left = sent
        while left:
            left -= len(slow.recv(left))
        assert guest.next().header.forwarded > 0  # the guest is told that there is room again


def test_a_guest_that_sends_more_than_it_may_loses_the_connection(guest: Driver) -> None:
    host, request = guest.accepted()
    with host:
        for _ in range(40):
            guest.reply(request, DATA, bytes(65536))
        guest.next_of(RESET)
        assert guest.resident() < 64 << 20
        while host.recv(65536):
            pass
    assert guest.alive()


def test_a_full_ring_makes_the_guest_wait(guest: Driver) -> None:
    """Answers wait for room in the guest; when too many do, nothing is taken from it any more."""
    stranger = Header(GUEST, HOST_CID, 1024, 22, 0, STREAM, DATA, 0, 1 << 18, 0)
    taken = 0
    guest.send(stranger, wait=False)
    while taken < 2000 and guest.takes(within=1):
        taken += 1
        guest.send(stranger, wait=False)
    assert SIZE <= taken < 1000
    for _ in range(taken + 1):
        assert guest.next().header.operation == RESET
    guest.taken()


def test_one_that_talks_much_does_not_keep_another_from_being_heard(guest: Driver) -> None:
    loud, _ = guest.accepted(room=1 << 31)
    quiet, request = guest.accepted()
    with loud, quiet:
        talking = threading.Thread(target=_talk, args=(loud,))
        talking.start()
        for _ in range(50):
            guest.next()
        quiet.sendall(b"me too")
        between = 0
        while guest.next().header.source_port != request.source_port:
            between += 1
        assert between < 3 * SIZE
        loud.shutdown(socket.SHUT_RDWR)
        talking.join()


def _talk(host: socket.socket) -> None:
    try:
        while True:
            host.sendall(bytes(65536))
    except OSError:
        return


def test_a_restarted_guest_ends_connections_and_a_halted_one_keeps_them(guest: Driver) -> None:
    host, request = guest.accepted()
    with host:
        guest.start(guest.stop())
        guest.reply(request, DATA, b"here again")
        assert host.recv(100) == b"here again"
        guest.stop()
        guest.forget()
        guest.start()
        assert host.recv(100) == b""
    guest.give_buffers()
    host, _ = guest.accepted()
    host.close()


def test_there_is_a_most_of_connections(guest: Driver) -> None:
    hosts = [guest.connect() for _ in range(MOST_STREAMS + 1)]
    assert hosts[-1].recv(1) == b""
    for host in hosts:
        host.close()
    deadline = time.monotonic() + 10
    while not _accepts(guest):
        assert time.monotonic() < deadline


def _accepts(guest: Driver) -> bool:
    """Whether a new connection is asked for in the guest, beside what is left of the old ones."""
    with guest.connect(9999) as host:
        while (said := guest.heard(0.5)) is not None:
            if said.header.target_port == 9999:
                guest.reply(said.header, RESPONSE)
                return host.recv(1) == b"\1"
    return False


def test_it_ends_with_its_supervisor() -> None:
    with driver(ends=True) as guest:
        guest.orders.close()
