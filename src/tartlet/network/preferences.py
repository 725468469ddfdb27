"""What a user decides about the networks of VMs: a few keys in a TOML file, read when a network comes up."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from pathlib import Path
from typing import Any, cast

from tartlet.errors import FileTrouble, InvalidArgument, UserError
from tartlet.host.files import write_whole
from tartlet.host.paths import made
from tartlet.host.trouble import trouble_writing

BACKENDS = ("auto", "bridge", "userns", "passt", "slirp")
SYSTEM_FILE = Path("/etc/tartlet/network.toml")
"""The settings of the networks that all users share; only root writes it."""

NAT_ADDRESS, HOST_ADDRESS = "192.168.64.1", "192.168.128.1"
_MASK = "255.255.255.0"
_INTERFACE = re.compile(r"[^\s/:\"\\]{1,15}")
_WIDEST, _NARROWEST = 16, 29
_AUTO, _OFF = "auto", "off"
_DNS_EXAMPLE = "for example 9.9.9.9,149.112.112.112"
_MOST_VMS = 65_000
_SHORTEST_LEASE, _LONGEST_LEASE = 120, 2**31
"""Seconds; dnsmasq makes shorter ones longer."""


class PreferencesBroken(UserError):
    """The file holds something that is no setting."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}", "mend it by hand, or remove it; `tart network set` writes it")
        self.path = path


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """The settings as they apply. What is None was left to the program."""

    backend: str = "auto"
    nat: IPv4Network | None = None
    host: IPv4Network | None = None
    lease_seconds: int = 86_400
    softnet_lease_seconds: int = 600
    name_servers: tuple[IPv4Address, ...] | None = None
    """Where guests' names are asked for; None: where the host asks; empty: guests are told no name server."""
    vms_per_user: int = 32
    """In the host's own network; of the system's file only."""
    bridged_allow: tuple[str, ...] = ()
    """Interfaces that users may put VMs on by the privileged process; of the system's file only."""
    hides_clients: bool = False
    """Whether a guest sees its gateway as the client of exposed ports, instead of the client itself; likewise."""


def file_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the settings are: `tartlet/network.toml` in the folder that the XDG base directory specification names."""
    folder = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(folder, "tartlet", "network.toml")


def read(path: Path | None = None) -> Preferences:
    """The settings of the file; the defaults where there is none. Raises PreferencesBroken, FileTrouble."""
    where = path or file_path()
    values = _values(where)
    try:
        for key, value in values.items():
            _checked(key, str(value))
        return _preferences({key: str(value) for key, value in values.items()})
    except InvalidArgument as exc:
        raise PreferencesBroken(where, str(exc)) from exc


def change(key: str, value: str, path: Path | None = None) -> None:
    """Write one setting into the file; the rest of it stays as it is.

    Raises InvalidArgument (an unknown key, no value for it), PreferencesBroken, FileTrouble.
    """
    where = path or file_path()
    before = read(where)
    written = _checked(key, value)
    _preferences({**{name: str(known) for name, known in _values(where).items()}, key: value})
    text = _with_line(where.read_text() if where.exists() else "", key, f"{key.rpartition('.')[2]} = {written}\n")
    if before == read_text(text, where) and where.exists():
        return
    _write(where, text)


def reset(key: str, path: Path | None = None) -> None:
    """Take one setting out of the file, so that its default applies; the rest of it stays as it is.

    Raises InvalidArgument (an unknown key, the default does not go with what else is set), PreferencesBroken,
    FileTrouble.
    """
    check_key(key)
    where = path or file_path()
    read(where)
    values = {name: str(known) for name, known in _values(where).items()}
    if key not in values:
        return
    _preferences({name: known for name, known in values.items() if name != key})
    text = _with_line(where.read_text(), key, "")
    if key in _parsed(text, where):
        raise PreferencesBroken(where, f"{key} does not stand in a line of its own")
    _write(where, text)


def _write(where: Path, text: str) -> None:
    made(where.parent)
    try:
        write_whole(where, text.encode())
    except OSError as exc:
        raise trouble_writing(where, exc) from exc


def shown(preferences: Preferences, system: Preferences) -> dict[str, str]:
    """Every setting with its value, in words for whoever looks: the user's, and of the host's those that he has not."""
    nat, host = preferences.nat, preferences.host
    return {
        "backend": preferences.backend,
        "nat.address": str(nat[1]) if nat else f"{NAT_ADDRESS}, or the first free network after it",
        "nat.mask": str(nat.netmask) if nat else _MASK,
        "host.address": str(host[1]) if host else f"{HOST_ADDRESS}, or the first free network after it",
        "host.mask": str(host.netmask) if host else _MASK,
        "dhcp.lease_time": str(preferences.lease_seconds),
        "softnet.dhcp_lease_time": str(preferences.softnet_lease_seconds),
        "dns.mode": _dns_mode(preferences.name_servers),
        "vms_per_user": str(system.vms_per_user),
        "bridged.allow": ",".join(system.bridged_allow) or "none",
        "expose_masquerade": str(system.hides_clients).lower(),
    }


def _dns_mode(servers: tuple[IPv4Address, ...] | None) -> str:
    if servers is None:
        return _AUTO
    return ",".join(str(server) for server in servers) or _OFF


def check(key: str, value: str) -> None:
    """Raises InvalidArgument where `change` would."""
    _checked(key, value)


def read_text(text: str, path: Path) -> Preferences:
    """The settings in a file's text. Raises PreferencesBroken."""
    return _preferences({key: str(value) for key, value in _parsed(text, path).items()})


def _values(path: Path) -> dict[str, str | int]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise FileTrouble("cannot read", path, exc) from exc
    return _parsed(text, path)


def _parsed(text: str, path: Path) -> dict[str, str | int]:
    """Dotted keys to values."""
    import tomllib  # most users have no such file, and every network reads it

    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise PreferencesBroken(path, str(exc)) from exc
    found = dict[str, str | int]()
    for name, value in tables.items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": _word(member) for key, member in cast("dict[str, Any]", value).items()}
        else:
            found[name] = _word(value)
    return found


def _word(value: Any) -> str | int:  # noqa: ANN401 - TOML in, what `change` is given out
    return ",".join(str(one) for one in cast("list[object]", value)) if isinstance(value, list) else value


def _preferences(values: Mapping[str, str]) -> Preferences:
    return Preferences(
        backend=values.get("backend", "auto"),
        nat=_network(values, "nat", NAT_ADDRESS),
        host=_network(values, "host", HOST_ADDRESS),
        lease_seconds=int(values.get("dhcp.lease_time", 86_400)),
        softnet_lease_seconds=int(values.get("softnet.dhcp_lease_time", 600)),
        name_servers=_name_servers(values.get("dns.mode", _AUTO)),
        vms_per_user=int(values.get("vms_per_user", 32)),
        bridged_allow=tuple(filter(None, values.get("bridged.allow", "").split(","))),
        hides_clients=values.get("expose_masquerade", "false").lower() == "true",
    )


def _network(values: Mapping[str, str], kind: str, usual: str) -> IPv4Network | None:
    """The network whose gateway or number is the address; None when neither it nor its mask was set."""
    if f"{kind}.address" not in values and f"{kind}.mask" not in values:
        return None
    address, _, length = values.get(f"{kind}.address", usual).partition("/")
    network = IPv4Network(f"{address}/{length or values.get(f'{kind}.mask', _MASK)}", strict=False)
    if IPv4Address(address) not in (network[0], network[1]):
        raise InvalidArgument(
            f"{kind}.address: the gateway of {network} is its first address, {network[1]}",
            f"choose that one, or another {kind}.mask first",
        )
    return network


def _address(key: str, text: str) -> str:
    try:
        network = IPv4Network(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError) as exc:
        raise InvalidArgument(f"{key}: '{text}' is no IPv4 address", "for example 192.168.77.1") from exc
    if "/" in text and not _WIDEST <= network.prefixlen <= _NARROWEST:
        raise InvalidArgument(
            f"{key}: a network has between {_WIDEST} and {_NARROWEST} bits of prefix, not {network.prefixlen}",
            "for example 192.168.77.1/24",
        )
    if network.is_loopback or network.is_multicast or network.is_unspecified:
        raise InvalidArgument(f"{key}: {text} cannot be the address of a network", "for example 192.168.77.1")
    return f'"{text}"'


def _mask(key: str, text: str) -> str:
    try:
        length = IPv4Network(f"0.0.0.0/{text}").prefixlen
    except ValueError as exc:
        raise InvalidArgument(f"{key}: '{text}' is no network mask", "for example 255.255.255.0") from exc
    if not _WIDEST <= length <= _NARROWEST:
        raise InvalidArgument(f"{key}: a mask is between 255.255.0.0 and 255.255.255.248", f"for example {_MASK}")
    return f'"{text}"'


def _seconds(key: str, text: str) -> str:
    if not text.isdecimal() or not _SHORTEST_LEASE <= int(text) < _LONGEST_LEASE:
        raise InvalidArgument(
            f"{key}: '{text}' is no number of seconds from {_SHORTEST_LEASE} to {_LONGEST_LEASE - 1}",
            "for example 600 for ten minutes, 86400 for a day",
        )
    return text


def _count(key: str, text: str) -> str:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_VMS:
        raise InvalidArgument(f"{key}: '{text}' is no number from 1 to {_MOST_VMS}", "for example 32")
    return text


def _interfaces(key: str, text: str) -> str:
    names = [name for name in text.split(",") if name]
    for name in names:
        if not _INTERFACE.fullmatch(name):
            raise InvalidArgument(f"{key}: '{name}' is no name of an interface", "for example br0, or br0,br1")
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def _switch(key: str, text: str) -> str:
    if text.lower() not in ("true", "false"):
        raise InvalidArgument(f"{key}: '{text}' is neither true nor false", "write one of the two words")
    return text.lower()


def _dns(key: str, text: str) -> str:
    try:
        servers = _name_servers(text) or ()
    except AddressValueError as exc:
        raise InvalidArgument(
            f"{key}: '{text}' is none of auto, off, or a list of IPv4 addresses", _DNS_EXAMPLE
        ) from exc
    for server in servers:
        if server.is_loopback or server.is_multicast or server.is_unspecified:
            raise InvalidArgument(
                f"{key}: {server} cannot be reached from the guests' network", "auto asks where this host asks"
            )
    return f'"{text}"'


def _name_servers(text: str) -> tuple[IPv4Address, ...] | None:
    """Raises AddressValueError."""
    if text == _AUTO:
        return None
    return () if text == _OFF else tuple(IPv4Address(server.strip()) for server in text.split(","))


def _backend(key: str, text: str) -> str:
    if text not in BACKENDS:
        raise InvalidArgument(
            f"{key}: '{text}' is none of {', '.join(BACKENDS)}", "tart doctor tells which of them work on this host"
        )
    return f'"{text}"'


SYSTEM_ONLY = frozenset({"vms_per_user", "bridged.allow", "expose_masquerade"})
"""Settings that mean something in the system's file only."""

AT_ONCE = frozenset({"bridged.allow"})
"""Settings that are read whenever they are needed, so that they can be changed at any time."""

KEYS: Mapping[str, Callable[[str, str], str]] = {
    "backend": _backend,
    "nat.address": _address,
    "nat.mask": _mask,
    "host.address": _address,
    "host.mask": _mask,
    "dhcp.lease_time": _seconds,
    "softnet.dhcp_lease_time": _seconds,
    "dns.mode": _dns,
    "vms_per_user": _count,
    "bridged.allow": _interfaces,
    "expose_masquerade": _switch,
}
"""Each setting and what makes TOML of its value; raises InvalidArgument."""


def check_key(key: str) -> None:
    """Raises InvalidArgument where there is no such setting."""
    if key not in KEYS:
        raise InvalidArgument(f"there is no setting '{key}'", f"there are {', '.join(KEYS)}")


def _checked(key: str, value: str) -> str:
    check_key(key)
    return KEYS[key](key, value)


def _with_line(text: str, key: str, line: str) -> str:
    """The text with a setting's line in its table, in place of the former one."""
    table, _, name = key.rpartition(".")
    head, body, tail = _split(text, table)
    pattern = re.compile(rf"^{re.escape(name)}\s*=.*\n?", re.MULTILINE)
    body = pattern.sub(lambda _: line, body, count=1) if pattern.search(body) else line + body
    return head + body + tail


def _split(text: str, table: str) -> tuple[str, str, str]:
    """What stands before a table's lines, its lines, and what follows; the table is made if it is missing."""
    if text and not text.endswith("\n"):
        text += "\n"
    if not table:
        first = re.search(r"^\[", text, re.MULTILINE)
        end = first.start() if first else len(text)
        return "", text[:end], text[end:]
    found = re.search(rf"^\[{re.escape(table)}\][^\n]*\n", text, re.MULTILINE)
    if found is None:
        return f"{text}[{table}]\n", "", ""
    following = re.compile(r"^\[", re.MULTILINE).search(text, found.end())
    end = following.start() if following else len(text)
    return text[: found.end()], text[found.end() : end], text[end:]
