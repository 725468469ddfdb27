"""Bridged cards for an ordinary user: by QEMU's own program for that, or not at all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from lan_lab import BRIDGE, CARD, Lan, local_network
from ordinary_user import NOBODY
from tartlet.network.bridged import bridge_helper
from vm_lab import until

pytestmark = [pytest.mark.needs_root]

TESTS = Path(__file__).parent.parent
ATTACH = f"""
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / "network")!r}]
import anyio
from tartlet.errors import UserError
from tartlet.network.bridged.bridged import Bridged
from test_bridged import bridged, leased

async def main():
    if lack := Bridged().lacking():
        return print(lack.reason, "|", lack.hint)
    try:
        async with bridged(sys.argv[1]) as (_, guest):
            print(leased(guest))
    except UserError as refused:
        print(refused, "|", refused.hint)

anyio.run(main)
"""
LISTED = f"mkdir -p /etc/qemu && echo 'allow {BRIDGE}' > /etc/qemu/bridge.conf"


@pytest.fixture
def lan(tmp_path: Path) -> Generator[Lan]:
    """The lab of a local network, where QEMU's program is installed and can be given rights."""
    if bridge_helper.find() is None or shutil.which("setcap", path="/usr/sbin:/sbin") is None:
        pytest.skip("needs qemu-bridge-helper and setcap")
    with local_network(tmp_path) as made:
        yield made


def as_nobody(lan: Lan, work: Path, interface: str, *preparing: str) -> str:
    """What the script prints for an ordinary user. `/etc` and the program's folder are copies that end with it."""
    program = bridge_helper.find()
    assert program is not None
    covers = [
        f"mount -t tmpfs tmpfs {work} && mkdir {work}/upper {work}/work && cp {program} {work}/copy",
        f"mount -t overlay overlay -o lowerdir=/etc,upperdir={work}/upper,workdir={work}/work /etc",
        f"mount -t tmpfs -o mode=755 tmpfs {program.parent} && cp {work}/copy {program}",
    ]
    script = " && ".join([*covers, *preparing, 'exec "$@"'])
    user = [sys.executable, str(TESTS / "ordinary_user.py"), str(NOBODY), sys.executable, "-c", ATTACH, interface]
    done: subprocess.CompletedProcess[str] = lan.host.run("unshare", "--mount", "sh", "-ec", script, "sh", *user)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def with_rights() -> str:
    return f"setcap cap_net_admin+ep {bridge_helper.find()}"


def test_a_listed_bridge_can_be_had(lan: Lan, tmp_path: Path) -> None:
    before = lan.links()
    assert as_nobody(lan, tmp_path, BRIDGE, with_rights(), LISTED).startswith("192.0.2.1")
    until(lambda: lan.links() == before, "the tap to be gone")


def test_a_bridge_that_is_not_listed_is_refused_with_the_command_that_lists_it(lan: Lan, tmp_path: Path) -> None:
    told = as_nobody(
        lan, tmp_path, BRIDGE, with_rights(), "mkdir -p /etc/qemu; echo 'allow br7' > /etc/qemu/bridge.conf"
    )
    assert "access denied by acl file" in told
    assert f"| echo 'allow {BRIDGE}' | sudo tee -a /etc/qemu/bridge.conf" in told


def test_a_card_cannot_be_had(lan: Lan, tmp_path: Path) -> None:
    told = as_nobody(lan, tmp_path, CARD, with_rights(), LISTED)
    assert told.startswith(f"--net-bridged={CARD}: this user may not change the host's network | ")
    assert f"make a bridge of {CARD}" in told


def test_without_rights_the_ways_to_have_them_are_told(lan: Lan, tmp_path: Path) -> None:
    told = as_nobody(lan, tmp_path, BRIDGE)
    assert told.startswith("this user may not change the host's network | run as root, or ")
    assert f"sudo setcap cap_net_admin+ep {bridge_helper.find()}" in told
