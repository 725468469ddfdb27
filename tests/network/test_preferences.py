"""The settings of the network: read, written, and refused."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tartlet.errors import InvalidArgument
from tartlet.network.preferences import KEYS, Preferences, PreferencesBroken, change, file_path, read, reset, shown

COMMENTED = """# mine
backend = "passt"  # for now

[nat]
# the office has .64
address = "10.9.8.1"
[dhcp]
lease_time = 600
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tartlet" / "network.toml"


def test_without_a_file_everything_is_as_usual(file: Path) -> None:
    assert read(file) == Preferences()


def test_where_the_file_is(tmp_path: Path) -> None:
    assert file_path({"XDG_CONFIG_HOME": str(tmp_path)}) == tmp_path / "tartlet" / "network.toml"


@pytest.mark.parametrize("address", ["192.168.77.1", "192.168.77.0", "192.168.77.0/24", "192.168.77.1/24"])
def test_a_gateway_or_a_network_says_the_same(file: Path, address: str) -> None:
    change("nat.address", address, file)
    assert read(file).nat == IPv4Network("192.168.77.0/24")


def test_a_mask_widens_the_network(file: Path) -> None:
    change("nat.address", "172.20.0.1", file)
    change("nat.mask", "255.255.0.0", file)
    assert read(file).nat == IPv4Network("172.20.0.0/16")


def test_a_list_of_interfaces_is_written_as_one(file: Path) -> None:
    change("bridged.allow", "br0,br1", file)
    assert '[bridged]\nallow = ["br0", "br1"]\n' in file.read_text()
    assert read(file).bridged_allow == ("br0", "br1")
    change("bridged.allow", "", file)
    assert read(file) == Preferences()


@pytest.mark.parametrize(
    ("mode", "servers"),
    [
        ("auto", None),
        ("off", ()),
        ("9.9.9.9, 10.0.0.53", (IPv4Address("9.9.9.9"), IPv4Address("10.0.0.53"))),
    ],
)
def test_who_is_asked_for_names(file: Path, mode: str, servers: tuple[IPv4Address, ...] | None) -> None:
    change("dns.mode", mode, file)
    assert read(file).name_servers == servers
    assert shown(read(file), Preferences())["dns.mode"] == mode.replace(" ", "")


@pytest.mark.parametrize("word", ["true", "True", "TRUE"])
def test_a_switch_is_written_as_toml_has_it(file: Path, word: str) -> None:
    change("expose_masquerade", word, file)
    assert "expose_masquerade = true\n" in file.read_text()
    assert read(file).hides_clients
    assert not Preferences().hides_clients


def test_comments_and_other_settings_stay(file: Path) -> None:
    file.parent.mkdir()
    file.write_text(COMMENTED)
    change("nat.address", "10.9.7.1", file)
    change("host.address", "10.9.6.1", file)
    change("backend", "auto", file)
    assert read(file) == Preferences(nat=IPv4Network("10.9.7.0/24"), host=IPv4Network("10.9.6.0/24"), lease_seconds=600)
    text = file.read_text()
    assert "# mine" in text
    assert "# the office has .64" in text


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("nat.adress", "10.0.0.1", "there is no setting 'nat.adress'"),
        ("nat.address", "10.0.0.300", "is no IPv4 address"),
        ("nat.address", "192.168.77.9", "is its first address, 192.168.77.1"),
        ("nat.address", "192.168.77.0/30", "between 16 and 29"),
        ("nat.address", "127.0.0.1", "cannot be the address"),
        ("nat.mask", "255.0.0.0", "between 255.255.0.0"),
        ("nat.mask", "255.0.255.0", "is no network mask"),
        ("dhcp.lease_time", "60", "from 120 to 2147483647"),
        ("softnet.dhcp_lease_time", "soon", "is no number of seconds"),
        ("backend", "vmnet", "is none of auto"),
        ("vms_per_user", "0", "no number from 1"),
        ("bridged.allow", "br0, br1", "' br1' is no name of an interface"),
        ("bridged.allow", 'br0"', "is no name of an interface"),
        ("dns.mode", "on", "none of auto, off, or a list"),
        ("dns.mode", "9.9.9.9;8.8.8.8", "none of auto, off, or a list"),
        ("dns.mode", "", "none of auto, off, or a list"),
        ("dns.mode", "127.0.0.53", "cannot be reached from the guests' network"),
        ("expose_masquerade", "yes", "neither true nor false"),
    ],
)
def test_what_is_no_setting_is_refused_and_changes_nothing(file: Path, key: str, value: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        change(key, value, file)
    assert told in str(caught.value)
    assert caught.value.hint
    assert not file.exists()


@pytest.mark.parametrize(
    ("key", "value"), [("backend", "slirp"), ("nat.address", "10.9.7.1"), ("bridged.allow", "br0")]
)
def test_a_setting_that_is_reset_has_its_default_and_the_others_stay(file: Path, key: str, value: str) -> None:
    change("host.mask", "255.255.255.128", file)
    before = file.read_text()
    change(key, value, file)
    reset(key, file)
    assert read(file) == Preferences(host=IPv4Network("192.168.128.0/25"))
    assert set(before.splitlines()) <= set(file.read_text().splitlines())


def test_resetting_what_was_not_set_makes_no_file(file: Path) -> None:
    reset("backend", file)
    assert not file.exists()
    with pytest.raises(InvalidArgument, match="no setting 'bakcend'"):
        reset("bakcend", file)


def test_a_default_that_does_not_go_with_the_rest_is_refused(file: Path) -> None:
    change("nat.address", "172.20.0.1", file)
    change("nat.mask", "255.255.0.0", file)
    with pytest.raises(InvalidArgument, match=r"its first address, 192\.168\.0\.1") as refused:
        reset("nat.address", file)
    assert refused.value.hint == "choose that one, or another nat.mask first"
    assert read(file).nat == IPv4Network("172.20.0.0/16")


@pytest.mark.parametrize("text", ['nat.address = "10.9.7.1"\n', '[bridged]\nallow = [\n"br0",\n]\n'])
def test_a_setting_that_is_written_in_another_way_is_not_lost_sight_of(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(PreferencesBroken, match=r"network\.toml"):
        reset("nat.address" if "nat" in text else "bridged.allow", file)
    assert file.read_text() == text


@pytest.mark.parametrize("text", ["nat = [", "[nat]\nadress = 1\n", '[dhcp]\nlease_time = "soon"\n', "backend = 7\n"])
def test_a_broken_file_is_told_with_its_name(file: Path, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(PreferencesBroken, match=r"network\.toml"):
        read(file)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                ("backend", "slirp"),
                ("backend", "auto"),
                ("nat.address", "10.1.2.1"),
                ("nat.address", "10.1.0.1"),
                ("host.mask", "255.255.255.128"),
                ("dhcp.lease_time", "700"),
                ("softnet.dhcp_lease_time", "130"),
            ]
        ),
        max_size=8,
    )
)
def test_any_order_of_changes_gives_the_last_value_of_each(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str]]
) -> None:
    one, other = (tmp_path_factory.mktemp("settings") / "network.toml" for _ in range(2))
    for key, value in changes:
        change(key, value, one)
    for key, value in sorted(dict(changes).items()):
        change(key, value, other)
    assert read(one) == read(other)
    assert {key for key, _ in changes} <= set(KEYS)
