"""Who gets which address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tartlet.network.shared.addresses import AddressBook, NoAddressLeft

SMALL = IPv4Network("192.168.64.0/29")


def mac(number: int) -> str:
    return f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"


def test_a_vm_gets_the_same_address_at_every_start() -> None:
    first = AddressBook(IPv4Network("192.168.64.0/24")).take(mac(1)).address
    assert AddressBook(IPv4Network("192.168.64.0/24")).take(mac(1)).address == first


def test_253_at_once_and_the_error_says_what_to_do() -> None:
    book = AddressBook(IPv4Network("192.168.64.0/24"))
    given_out = {book.take(mac(number)).address for number in range(253)}
    assert given_out == set(book.network.hosts()) - {book.gateway}
    with pytest.raises(NoAddressLeft, match="253 VMs run") as caught:
        book.take(mac(999))
    assert caught.value.hint == "stop a VM first"


def test_any_number_one_after_the_other() -> None:
    book = AddressBook(SMALL)
    for number in range(1000):
        book.give_back(book.take(mac(number)).address)


def test_the_longest_unused_address_is_given_away_first_and_its_former_holder_is_named() -> None:
    book = AddressBook(SMALL)
    taken = [book.take(mac(number)).address for number in range(5)]
    for address in (taken[3], taken[0], taken[1]):
        book.give_back(address)
    again = book.take(mac(1))
    assert (again.address, again.former) == (taken[1], None)  # its own
    new = book.take(mac(77))
    assert (new.address, new.former) == (taken[3], mac(3))


@pytest.mark.parametrize(
    ("wish", "granted"),
    [
        ("192.168.64.4", True),
        ("192.168.64.0", False),
        ("192.168.64.1", False),
        ("192.168.64.7", False),
        ("10.0.2.15", False),
    ],
)
def test_a_resumed_guest_keeps_its_address_if_it_is_one(wish: str, granted: bool) -> None:
    assert (AddressBook(SMALL).take(mac(1), IPv4Address(wish)).address == IPv4Address(wish)) is granted


def test_a_wish_that_another_vm_has_is_not_granted() -> None:
    book = AddressBook(SMALL)
    held = book.take(mac(1)).address
    assert book.take(mac(2), held).address != held


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60))
def test_no_two_running_vms_share_an_address(steps: list[tuple[int, bool]]) -> None:
    book, running = AddressBook(SMALL), dict[int, IPv4Address]()
    for number, start in steps:
        if start and number not in running and len(running) < book.capacity:
            running[number] = book.take(mac(number)).address
        elif not start and number in running:
            book.give_back(running.pop(number))
        assert len(set(running.values())) == len(running)
