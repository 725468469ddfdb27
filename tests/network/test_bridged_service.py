"""Bridged cards for an ordinary user by the privileged process: what the administrator allows, and that all ends."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from host_networks import installed
from lan_lab import BRIDGE, CARD, Lan, local_network
from namespaces import entered
from ordinary_user import NOBODY
from tap_guest import TapGuest
from tartlet.errors import InvalidArgument
from tartlet.network.shared import wire
from tartlet.network.status import change_setting, reset_setting
from vm_lab import until

pytestmark = [pytest.mark.needs_root]

TESTS = Path(__file__).parent.parent
ATTACH = f"""
import os, sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / "network")!r}]
import anyio
from tartlet.errors import UserError
from tartlet.network.shared import links
from test_bridged import Bridged, asking, guest_on, leased, MACS

async def main():
    try:
        async with Bridged().attach(asking(*sys.argv[2:])) as attachment:
            addresses = [leased(guest_on(attachment, MACS[0], index)) for index in range(len(sys.argv) - 2)]
            async for record in attachment.later():
                print(record.address == addresses[0], len(set(addresses)), flush=True)
                break
            if sys.argv[1] == "keep":
                kept = os.dup(attachment.cables[0].descriptors[0])
    except UserError as refused:
        print(refused, "|", refused.hint)
    if sys.argv[1] == "keep":
        sys.stdin.read()

anyio.run(main)
"""


@pytest.fixture
def lan(tmp_path: Path) -> Generator[Lan]:
    """The test itself runs on the host of the lab."""
    with local_network(tmp_path) as made, entered(made.host):
        yield made


@contextmanager
def allowing(folder: Path, *interfaces: str, rights: Sequence[str] = ()) -> Generator[Path]:
    """The process, which finds these interfaces in the system's settings; gives its socket."""
    settings = f"allow = [{', '.join(repr(name) for name in interfaces)}]"
    covers = [
        f"mkdir {folder}/etc && mount -t tmpfs tmpfs {folder}/etc && mkdir {folder}/etc/upper {folder}/etc/work",
        f"mount -t overlay overlay -o lowerdir=/etc,upperdir={folder}/etc/upper,workdir={folder}/etc/work /etc",
        f'mkdir -p /etc/tartlet && printf "[bridged]\\n{settings}\\n" > /etc/tartlet/network.toml',
        'exec "$@"',
    ]
    words = ["unshare", "--mount", "sh", "-ec", " && ".join(covers), "sh", *rights]
    with installed(folder, as_somebody=words, variables={"RUNTIME_DIRECTORY": str(folder)}) as path:
        yield path


def as_nobody(lan: Lan, path: Path, *words: str) -> list[str]:
    """Words that run the script as an ordinary user."""
    user = [sys.executable, str(TESTS / "ordinary_user.py"), str(NOBODY), sys.executable, "-c", ATTACH, *words]
    return lan.host.words("unshare", "--mount", "env", f"TART_NET_SOCKET={path}", *user)


def told(lan: Lan, path: Path, *interfaces: str) -> str:
    done = subprocess.run(
        as_nobody(lan, path, "leave", *interfaces), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("interfaces", [(BRIDGE,), (CARD,), (BRIDGE, CARD)], ids=" ".join)
def test_what_is_allowed_can_be_had_and_ends_with_the_vm(
    lan: Lan, socket_folder: Path, interfaces: tuple[str, ...]
) -> None:
    before = lan.links()
    with allowing(socket_folder, BRIDGE, CARD) as path:
        assert told(lan, path, *interfaces) == f"True {len(interfaces)}"
        until(lambda: lan.links() == before, "the cards' ends to be gone")
        assert told(lan, path, *interfaces) == f"True {len(interfaces)}"


def test_what_is_not_allowed_is_refused_with_the_command_that_allows_it(lan: Lan, socket_folder: Path) -> None:
    with allowing(socket_folder, "br7") as path:
        assert told(lan, path, BRIDGE) == (
            f"network backend bridged: users may not put VMs on {BRIDGE} | "
            f"an administrator allows it: sudo tart network set --system bridged.allow br7,{BRIDGE}"
        )


def test_a_user_who_holds_on_to_a_tap_loses_it_when_he_has_given_up_its_lifeline(lan: Lan, socket_folder: Path) -> None:
    before = lan.links()
    with allowing(socket_folder, BRIDGE) as path:
        words = as_nobody(lan, path, "keep", BRIDGE)
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
            assert user.stdout is not None
            assert user.stdout.readline() == "True 1\n"
            until(lambda: lan.links() == before, "the tap to be taken away")
            user.communicate("")


def test_as_a_service_it_has_no_right_to_use_cards(lan: Lan, socket_folder: Path) -> None:
    rights = ("setpriv", "--bounding-set=-all,+net_admin,+net_raw,+net_bind_service", "--")
    with allowing(socket_folder, BRIDGE, CARD, rights=rights) as path:
        assert told(lan, path, BRIDGE) == "True 1"
        assert f"{CARD} is a network card, and the helper has the right to use bridges only" in told(lan, path, CARD)


@pytest.mark.anyio
@pytest.mark.parametrize(("key", "value"), [("bridged.allow", "br0"), ("vms_per_user", "3")])
async def test_what_is_the_hosts_to_decide_no_user_sets_for_himself(key: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match="of the whole host") as refused:
        await change_setting(key, value)
    assert refused.value.hint == f"sudo tart network set --system {key} {value}"
    with pytest.raises(InvalidArgument, match="of the whole host") as refused:
        await reset_setting(key)
    assert refused.value.hint == f"sudo tart network unset --system {key}"


REFUSED = (
    {"do": "bridged", "interface": BRIDGE, "mac": "00:11:22:33:44:55"},
    {"do": "bridged", "interface": "../br0", "mac": "7a:65:e4:3f:be:01"},
    {"do": "bridged", "interface": "lo", "mac": "7a:65:e4:3f:be:01"},
)
HUNG_UP = (
    {"do": "bridged", "interface": BRIDGE, "mac": "7a:65:e4:3f:be:01; id"},
    {"do": "bridged", "interface": "x" * 300, "mac": "7a:65:e4:3f:be:01"},
    {"do": "bridged", "interface": BRIDGE},
)


@pytest.mark.usefixtures("lan")
def test_nonsense_is_refused(socket_folder: Path) -> None:
    with allowing(socket_folder, BRIDGE) as path:
        for question in REFUSED:
            answer, descriptors = answered(path, question)
            assert answer["error"]
            assert descriptors == []
        for question in HUNG_UP:
            with pytest.raises(wire.Hangup):
                answered(path, question)


def test_no_socket_is_handed_out_that_could_send_on_any_interface(lan: Lan, socket_folder: Path) -> None:
    before = lan.links()
    with allowing(socket_folder) as path:
        for interface in (BRIDGE, CARD):
            answer, descriptors = answered(path, {"do": "bridged", "interface": interface, "mac": "7a:65:e4:3f:be:01"})
            assert "error" not in answer
            assert len(descriptors) == (3 if interface == BRIDGE else 4)
            assert not any(stat.S_ISSOCK(os.fstat(number).st_mode) for number in descriptors)
            for number in descriptors:
                os.close(number)
        until(lambda: lan.links() == before, "the tap to be gone")


@pytest.mark.parametrize("interface", [BRIDGE, CARD])
def test_a_guest_goes_on_when_the_process_is_killed_and_then_leaves_nothing(
    lan: Lan, socket_folder: Path, interface: str
) -> None:
    before, mac = lan.links(), "7a:65:e4:3f:be:01"
    with allowing(socket_folder) as path:
        _, descriptors = answered(path, {"do": "bridged", "interface": interface, "mac": mac})
    assert TapGuest(descriptor=descriptors[0], mac=bytes.fromhex(mac.replace(":", ""))).leased() is not None
    for number in descriptors:
        os.close(number)
    until(lambda: lan.links() == before, "the tap to be gone")


def answered(path: Path, question: dict[str, str]) -> tuple[dict[str, Any], list[int]]:
    with wire.new_socket() as connection:
        connection.connect(str(path))
        wire.send(connection, question)
        return wire.receive(connection)


@pytest.fixture
def socket_folder() -> Generator[Path]:
    """A folder that everybody can reach."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
