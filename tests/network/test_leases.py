"""Both lease file formats, by the tables of their specification."""

from __future__ import annotations

import time
from contextlib import suppress
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tartlet.network.lookup.leases import LeaseFileBroken, address_of, apple, dnsmasq, mac_bytes

MAC = "00:11:22:33:44:55"
FOREVER = "0x7fffffff"


def entry(address: str, hardware: str = f"1,{MAC}", lease: str = FOREVER) -> str:
    return f"{{\n\tip_address={address}\n\thw_address={hardware}\n\tlease={lease}\n}}\n"


def in_seconds(span: float) -> str:
    return hex(int(time.time() + span))


def test_a_single_lease() -> None:
    assert address_of(MAC, apple(entry("1.2.3.4"))) == IPv4Address("1.2.3.4")


def test_two_leases_are_told_apart() -> None:
    leases = apple(entry("1.2.3.4") + entry("5.6.7.8", "1,AA:BB:CC:DD:EE:FF"))
    assert address_of(MAC, leases) == IPv4Address("1.2.3.4")
    assert address_of("aa:bb:cc:dd:ee:ff", leases) == IPv4Address("5.6.7.8")


def test_expired_leases_do_not_count() -> None:
    past = "{\n\tname=vm\n\n\tip_address=66.66.66.66\n\thw_address=1,%s\n\tidentifier=1,%s\n\tlease=%s\n}\n"
    old = past % (MAC, MAC, in_seconds(-1))
    text = old + entry("1.2.3.4", lease=in_seconds(600)) + old
    assert address_of(MAC, apple(text)) == IPv4Address("1.2.3.4")
    assert address_of(MAC, apple(old)) is None


def test_the_lease_that_ends_last_wins() -> None:
    text = entry("192.168.64.1", lease=in_seconds(600)) + entry("192.168.64.2", lease=in_seconds(300))
    assert address_of(MAC, apple(text.replace("\t", "    "))) == IPv4Address("192.168.64.1")


def test_of_equal_leases_the_later_in_the_file_wins() -> None:
    assert address_of(MAC, apple(entry("1.1.1.1") + entry("2.2.2.2"))) == IPv4Address("2.2.2.2")


def test_the_lease_time_is_unix_time_in_hexadecimal() -> None:
    (lease,) = apple(entry("1.2.3.4", lease="0x6565da9e"))
    assert time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(lease.expires)) == "2023-11-28T12:18:38Z"
    assert apple(entry("1.2.3.4", lease="6565da9e")) == [lease]


@pytest.mark.parametrize("asked", ["0:11:22:33:44:55", "00:11:22:33:44:55"])
@pytest.mark.parametrize("written", ["1,0:11:22:33:44:55", "1,00:11:22:33:44:55"])
def test_octets_may_lack_zeros(asked: str, written: str) -> None:
    assert address_of(asked, apple(entry("1.2.3.4", written))) == IPv4Address("1.2.3.4")


@pytest.mark.parametrize(
    ("hardware", "counts"),
    [
        (f"ff,{MAC}", True),  # not a decimal number: let through
        (f"6,{MAC}", False),
        ("ff,f1:f5:dd:7f:00:02:00:00:ab:11", False),
        (MAC, False),
        (f"1,{MAC},1", False),
        ("1,00:11:22:33:44:zz", False),
        ("1,00:11:22:33:44", False),
        ("1,000:11:22:33:44:55", False),
    ],
)
def test_which_hardware_addresses_count(hardware: str, counts: bool) -> None:
    assert bool(apple(entry("1.2.3.4", hardware))) is counts


@pytest.mark.parametrize("text", [entry("fe80::1"), entry("1.2.3"), entry("1.2.3.4", lease="soon"), "{\nname=x\n}\n"])
def test_bad_entries_are_skipped(text: str) -> None:
    assert apple(text + entry("9.9.9.9"))[0].address == IPv4Address("9.9.9.9")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{\n{\n", 2),
        ("\n\n{\n\n}\n", 2),  # empty lines are not counted
        ("}\n", 1),
        ("{\nname\n}\n", 2),
        ("{\nname=\n}\n", 2),
        ("{\n=x\n}\n", 2),
        (" {\n", 1),
        ("name=x\n{\n", 2),
        ("{\nname=x\n", None),
        ("{\n", None),
    ],
)
def test_a_broken_file_is_an_error_with_its_line(text: str, line: int | None) -> None:
    with pytest.raises(LeaseFileBroken) as caught:
        apple(text)
    assert caught.value.line == line


def test_keys_before_the_first_brace_begin_an_entry_and_repeated_keys_overwrite() -> None:
    text = f"ip_address=9.9.9.9\nip_address=1.2.3.4\n  \t\nhw_address=1,{MAC}\nlease={FOREVER}\n}}\n"
    assert address_of(MAC, apple(text)) == IPv4Address("1.2.3.4")


def test_dnsmasq_leases() -> None:
    text = (
        f"{int(time.time()) + 60} {MAC} 192.168.64.21 vm-one *\n"
        "0 02:00:00:00:00:01 192.168.64.22 * 01:02:00:00:00:00:01\n"
        f"{int(time.time()) - 60} 02:00:00:00:00:02 192.168.64.23 * *\n"
        "duid 00:01:00:01:2c\n1795492186 1234 fd00::5 host 00:01\n"
    )
    leases = dnsmasq(text)
    assert address_of(MAC, leases) == IPv4Address("192.168.64.21")
    assert address_of("2:0:0:0:0:1", leases) == IPv4Address("192.168.64.22")  # without an end
    assert address_of("02:00:00:00:00:02", leases) is None
    assert len(leases) == 3


@given(st.text(max_size=200))
def test_no_text_breaks_the_parsers(text: str) -> None:
    dnsmasq(text)
    with suppress(LeaseFileBroken):
        apple(text)


@given(st.binary(min_size=6, max_size=6))
def test_a_mac_address_is_read_back(octets: bytes) -> None:
    assert mac_bytes(":".join(f"{octet:x}" for octet in octets)) == octets
    assert mac_bytes(octets.hex(":").upper()) == octets
