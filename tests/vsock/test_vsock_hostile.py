"""Guests whose rings make no sense: the device neither ends nor waits, and the next driver finds it as new."""

from __future__ import annotations

import struct
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tartlet.vsock.guest_memory import BadAddress, GuestMemory, Region
from tartlet.vsock.packets import DATA, HEADER, HOST_CID, RESET, STREAM, Header, credit
from tartlet.vsock.ring import gathered, scattered
from vsock_driver import GUEST, SIZE, Driver, driver

INDIRECT, NEXT, WRITE = 4, 1, 2
STRANGER = Header(GUEST, HOST_CID, 1024, 22, 0, STREAM, DATA, 0, 0, 0)


def still_good(guest: Driver) -> None:
    """Whatever was done to it: a new driver gets what it wants."""
    assert guest.alive()
    guest.stop()
    guest.forget()
    guest.start()
    guest.give_buffers()
    guest.accepted()[0].close()


def bad_chain(guest: Driver, *descriptors: tuple[int, int, int, int]) -> None:
    for place, (address, length, flags, following) in enumerate(descriptors):
        guest.from_guest.describe(place, address, length, flags, following)
    guest.from_guest.give(0)
    guest.from_guest.ring()


@pytest.mark.parametrize(
    "descriptors",
    [
        pytest.param([(1 << 40, 44, 0, 0)], id="outside"),
        pytest.param([((1 << 64) - 1, 44, 0, 0)], id="at the end of the world"),
        pytest.param([(0, 0xFFFFFFFF, 0, 0)], id="longer than the memory"),
        pytest.param([(0, 44, NEXT, 0)], id="a circle"),
        pytest.param([(0, 44, NEXT, 999)], id="beyond the table"),
        pytest.param([(0, 10, 0, 0)], id="too short"),
        pytest.param([(0x200000, 44, WRITE, 0)], id="nothing to read"),
        pytest.param([(0x200000, 17, INDIRECT, 0)], id="a table of a piece"),
        pytest.param([(0x200000, 0, INDIRECT, 0)], id="a table of nothing"),
        pytest.param([(0x200000, 16, INDIRECT | NEXT, 1)], id="a table that goes on"),
        pytest.param([(0, 16, INDIRECT, 0)], id="a table in a table"),
    ],
)
def test_a_chain_that_makes_no_sense_stops_the_device(descriptors: list[tuple[int, int, int, int]]) -> None:
    with driver() as guest:
        host, _ = guest.accepted()
        bad_chain(guest, *descriptors)
        assert host.recv(1) == b""
        host.close()
        still_good(guest)


def test_buffers_without_room_stop_the_device() -> None:
    with driver() as guest:
        guest.stop()
        guest.forget()
        guest.start()
        guest.give_buffers(size=20)
        guest.connect().close()
        still_good(guest)


def test_an_index_that_runs_ahead_stops_the_device() -> None:
    with driver() as guest:
        guest.from_guest.given = SIZE + 1
        guest.from_guest.give(0)
        guest.from_guest.ring()
        still_good(guest)


def test_packets_in_pieces_and_by_tables_are_whole() -> None:
    with driver() as guest:
        raw = STRANGER.bytes()
        place = 0x300000
        guest.memory[place : place + 44] = raw
        bad_chain(guest, (place, 1, NEXT, 1), (place + 1, 40, NEXT, 2), (place + 41, 3, 0, 0))
        assert guest.next().header.operation == RESET
        table = struct.pack("<QIHH", place, 20, NEXT, 1) + struct.pack("<QIHH", place + 20, 24, 0, 0)
        guest.memory[0x310000 : 0x310000 + 32] = table
        bad_chain(guest, (0x310000, 32, INDIRECT, 0))
        assert guest.next().header.operation == RESET


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rings=st.binary(min_size=64, max_size=64), index=st.integers(0, SIZE), seed=st.integers(0, 1 << 16))
def test_any_bytes_as_rings(hostile: Driver, rings: bytes, index: int, seed: int) -> None:
    guest = hostile
    for ring in (guest.to_guest, guest.from_guest):
        for start in (0, 0x1004, 0x2004):  # but for the indices, which come next
            at = ring.base + start
            guest.memory[at : at + 64] = rings
        struct.pack_into("<H", guest.memory, ring.base + 0x1002, (ring.given + index) & 0xFFFF)
        struct.pack_into("<H", guest.memory, ring.base + 0x2002, seed & 0xFFFF)
        ring.ring()
    still_good(guest)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.binary(min_size=44, max_size=60),
            st.booleans(),
            st.integers(0, 9),
            st.one_of(st.integers(0, 40), st.integers(0, (1 << 32) - 1)),
        ),
        max_size=30,
    )
)
def test_any_packets(hostile: Driver, packets: list[tuple[bytes, bool, int, int]]) -> None:
    """Some of them with all that belongs to a connection that is there."""
    guest = hostile
    host, request = guest.accepted()
    with host:
        for raw, ours, operation, length in packets:
            header = Header.read(raw[: HEADER.size])
            if ours:
                ports = (request.target_port, request.source_port)
                whose = (GUEST, HOST_CID, *ports, length, STREAM, operation)
                header = Header(*whose, header.flags, header.room, header.forwarded)
            guest.send(header, raw[HEADER.size :], wait=False)
            assert guest.alive()
    still_good(guest)


@pytest.fixture(scope="module", name="hostile")
def one_device_for_all() -> Generator[Driver]:
    """It has to outlive every example."""
    with driver() as guest:
        yield guest
        assert guest.resident() < 64 << 20


@pytest.mark.parametrize("size", [0, 3, 3 << 20])
def test_rings_of_no_size_are_as_good_as_none(size: int) -> None:
    with driver() as guest:
        guest.stop()
        guest.ask(8, struct.pack("<II", 0, size))
        guest.ask(12, struct.pack("<Q", 0), [guest.to_guest.kick])
        assert guest.alive()


@given(st.integers(0, 1 << 65), st.integers(0, 1 << 33))
def test_addresses_outside_are_refused(address: int, size: int) -> None:
    memory = GuestMemory([Region(0x1000, 64, 0x9000, memoryview(bytearray(64)))])
    inside = address >= 0x1000 and address + size <= 0x1000 + 64
    if inside:
        assert len(memory.at(address, size)) == size
    else:
        with pytest.raises(BadAddress):
            memory.at(address, size)


@given(st.binary(max_size=100), st.lists(st.integers(0, 40), max_size=8), st.integers(0, 50))
def test_pieces_hold_what_was_put_into_them(data: bytes, sizes: list[int], start: int) -> None:
    buffers = [memoryview(bytearray(size)) for size in sizes]
    room = sum(sizes)
    scattered(data[:room], buffers)
    whole = b"".join(bytes(buffer) for buffer in buffers)
    assert whole == data[:room].ljust(room, b"\0")
    assert gathered(buffers, start, 20) == whole[start : start + 20]


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_credit_is_never_more_than_the_room(room: int, forwarded: int, sent: int) -> None:
    assert 0 <= credit(room, forwarded, sent) <= room
