"""The privileged process among clients that are broken or mean: they harm nobody but themselves, and get nothing."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from host_networks import installed, processes, things_left
from namespaces import Namespace
from ordinary_user import NOBODY
from tap_guest import TapGuest
from tartlet.network.shared import wire
from vm_lab import until

pytestmark = [pytest.mark.needs_root]

_TUNSETPERSIST = 0x400454CB
SOMEBODY = 65532
QUOTA = 3


@pytest.fixture
def served(inside_private_network: Namespace) -> Generator[Path]:
    """The socket of a process that allows each user few VMs."""
    assert inside_private_network.as_root
    with TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "etc" / "tartlet").mkdir(parents=True)
        (folder / "etc" / "tartlet" / "network.toml").write_text(f"vms_per_user = {QUOTA}\n")
        overlay = f'mount -t overlay -o lowerdir={folder}/etc:/etc overlay /etc && exec "$@"'
        with installed(folder, as_somebody=["unshare", "--mount", "sh", "-c", overlay, "sh"]) as path:
            yield path
        until(lambda: not things_left(), "the network to end")


class Client:
    """A connection of some user's."""

    def __init__(self, path: Path, user: int = NOBODY) -> None:
        self.socket = wire.new_socket()
        self.socket.settimeout(10)
        os.seteuid(user)
        try:
            self.socket.connect(str(path))
        finally:
            os.seteuid(0)

    def asked(self, question: object, descriptors: Sequence[int] = ()) -> dict[str, Any]:
        """The answer; its descriptors are closed. Raises OSError when there is none, `{}` may be one."""
        told, given = self.attached(question, descriptors)
        for descriptor in given:
            os.close(descriptor)
        return told

    def attached(self, question: object, descriptors: Sequence[int] = ()) -> tuple[dict[str, Any], list[int]]:
        """The answer with its descriptors."""
        text = question if isinstance(question, bytes) else json.dumps(question).encode()
        socket.send_fds(self.socket, [text], descriptors)
        answer, given, _, _ = socket.recv_fds(self.socket, 1 << 18, 8)
        if not answer:
            raise ConnectionResetError
        found: dict[str, Any] = json.loads(answer)
        return found, given


@contextmanager
def client(path: Path, user: int = NOBODY) -> Generator[Client]:
    made = Client(path, user)
    with made.socket:
        yield made


def asking(number: int = 1, **more: object) -> dict[str, object]:
    mac = f"7a:65:e4:3f:be:{number:02x}"
    return {"do": "attach", "vm": f"vm{number}", "mac": mac, "mode": "softnet", **more}


@contextmanager
def guest(path: Path, number: int = 1, user: int = SOMEBODY) -> Generator[tuple[Client, dict[str, Any], TapGuest]]:
    """A VM that minds its own business."""
    with client(path, user) as its, ExitStack() as held:
        told, given = its.attached(asking(number))
        for descriptor in given:
            held.callback(os.close, descriptor)
        yield its, told, TapGuest(descriptor=given[0], mac=bytes.fromhex(f"7a65e43fbe{number:02x}"))


NONSENSE: list[bytes] = [
    b" ", b"{", b"[]", b"{}", b"null", b"\xff" * 999, b"[" * 50_000, b'{"a":' * 9_000, b"1" * 60_000, b"x" * 70_000,
    b'{"do": 1}', b'{"do": "dance"}', b'{"do": "attach"}', b'{"do": "isolate"}', b'{"do": "isolate", "isolated": 1}',
    b'{"do": "status", "uid": 0}', b'{"do": "more", "allow": "10.0.0.0/8"}', b'{"do": "more", "allow": [1]}',
    json.dumps({"do": "more", "allow": ["x" * 301]}).encode(),
    json.dumps({"do": "more", "allow": ["1"] * 4097}).encode(),
    json.dumps(asking(vm="")).encode(), json.dumps(asking(vm="x" * 256)).encode(), json.dumps(asking(vm=None)).encode(),
    json.dumps(asking(mac="7a:65:e4:3f:be:01\n")).encode(), json.dumps(asking(mac="7A:65:e4:3f:be:01")).encode(),
    json.dumps(asking(mode="bridged")).encode(), json.dumps(asking(tap="eth0")).encode(),
    json.dumps(asking(tap="tartv0; ip link del eth0")).encode(), json.dumps(asking(expose=["1"] * 257)).encode(),
    json.dumps(asking(wish="1.2.3.4.5")).encode(), json.dumps(asking(wish="999.0.0.1")).encode(),
    json.dumps(asking(bridge="eth0")).encode(),
]  # fmt: skip


def test_nonsense_ends_the_connection_and_nothing_else(served: Path) -> None:
    with guest(served) as (own, _, tap):
        for nonsense in NONSENSE:
            with client(served) as mean, pytest.raises(OSError, match=r"^$|reset|Message too long"):
                mean.asked(nonsense)
        assert tap.leased() is not None
        assert [vm["name"] for vm in own.asked({"do": "status"})["networks"][0]["vms"]] == ["vm1"]


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (asking(mac="08:00:27:00:00:01"), "not a locally administered one"),
        (asking(mac="03:00:00:00:00:01"), "not a locally administered one"),
        (asking(mac="02:74:61:72:74:30"), "not a locally administered one"),
        (asking(vm="a\nb"), "cannot be printed"),
        (asking(mode="nat", allow=["10.0.0.0/8"]), "only a Softnet VM has rules"),
        (asking(allow=["10.0.0.5; add table"]), "10.0.0.5; add table"),
        (asking(block=["example.org"]), "can only be allowed"),
        (asking(expose=["80:80:80"]), "not a pair of ports"),
        (asking(expose=["21:21"]), "ports below 22 are for root"),
        (asking(tap="tartv77"), "not the tap of a VM of this user"),
        ({"do": "refused"}, "has no VM"),
        ({"do": "replace", "allow": [], "block": []}, "has no VM"),
    ],
)
def test_what_a_user_may_not_have_is_refused_and_he_may_ask_again(served: Path, question: object, told: str) -> None:
    with client(served) as asks:
        assert told in asks.asked(question)["error"]
        assert asks.asked({"do": "status"})["networks"] is not None


def test_one_users_vms_are_not_anothers(served: Path) -> None:
    with guest(served) as (_, its, tap), client(served) as other:
        assert other.asked({"do": "status"})["networks"][0]["vms"] == []
        assert other.asked({"do": "status"})["networks"][0]["running"] == 1
        assert "has no VM" in other.asked({"do": "isolate", "isolated": False})["error"]
        assert "not the tap" in other.asked(asking(2, tap=its["tap"], wish=its["address"]))["error"]
        assert "taken" in other.asked(asking(1))
        assert other.asked(asking(2, wish=its["address"]))["address"] != its["address"]
        assert tap.leased() is not None


def test_a_user_has_so_many_vms_and_no_more(served: Path) -> None:
    with ExitStack() as held:
        for number in range(QUOTA):
            held.enter_context(guest(served, number))
        with client(served, SOMEBODY) as more:
            assert f"has {QUOTA} VMs" in more.asked(asking(9))["error"]
        with guest(served, 10, user=NOBODY) as (_, told, _):
            assert told["address"]
    with guest(served, 9) as (_, told, _):
        assert told["address"]


def test_a_user_has_so_many_connections_and_no_more(served: Path) -> None:
    with ExitStack() as held:
        first = [held.enter_context(client(served)) for _ in range(QUOTA + 16)]
        assert all("networks" in one.asked({"do": "status"}) for one in first)
        with client(served) as more, pytest.raises(OSError, match=r"^$|reset|Broken pipe"):
            more.asked({"do": "status"})
        with guest(served) as (_, told, _):
            assert told["address"]


def test_whatever_is_sent_no_descriptor_stays(served: Path) -> None:
    chance = random.Random(4)
    seeds = [json.dumps(asking(3, allow=["10.0.0.0/8"], expose=["8080:80"])).encode(), b'{"do": "status"}', *NONSENSE]
    with guest(served) as (_, _, tap), ExitStack() as held:
        descriptors = [held.enter_context(Path("/dev/null").open("rb")).fileno() for _ in range(4)]
        descriptors += [descriptor for _ in range(2) for descriptor in os.pipe()]
        for descriptor in descriptors[4:]:
            held.callback(os.close, descriptor)
        with client(served) as settled:
            settled.asked({"do": "status"})
        process = processes()["process"]
        until(lambda: _open_files(process) == _open_files(process), "a moment of rest")
        before = _open_files(process)
        for _ in range(300):
            text = bytearray(chance.choice(seeds)[:60_000])
            for _ in range(chance.randrange(4)):
                text[chance.randrange(len(text))] = chance.randrange(256)
            with client(served) as mean, suppress(OSError, ValueError):
                mean.socket.settimeout(2)
                mean.asked(bytes(text), descriptors[: chance.randrange(9)])
        until(lambda: _open_files(process) <= before, "all descriptors to be closed")
        assert processes()["process"] == process
        assert tap.leased() is not None


def test_who_never_reads_his_answers_holds_up_nobody_else(served: Path) -> None:
    with guest(served) as (_, _, tap), client(served) as mute:
        mute.socket.setblocking(False)
        with suppress(BlockingIOError):
            for _ in range(100_000):
                mute.socket.send(b'{"do": "status"}')
        assert tap.leased() is not None
        with guest(served, 2) as (_, told, _):
            assert told["address"]


def test_a_lifeline_that_somebody_writes_to_is_a_vm_that_ends(served: Path) -> None:
    with guest(served, 2) as (_, _, other), client(served) as mean:
        told, given = mean.attached(asking(1))
        os.write(given[1], b"nonsense")
        until(lambda: told["tap"] not in things_left(), "the tap to go")
        assert "error" in mean.asked({"do": "replace", "allow": [], "block": []})
        for descriptor in given:
            os.close(descriptor)
        assert other.leased() is not None


def test_a_tap_that_was_made_to_last_goes_with_its_vm(served: Path) -> None:
    with client(served) as mean:
        told, given = mean.attached(asking(1))
        fcntl.ioctl(given[0], _TUNSETPERSIST, 1)
        assert told["tap"] in things_left()
        for descriptor in given:
            os.close(descriptor)
        until(lambda: told["tap"] not in things_left(), "the tap to go")


def _open_files(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))
