"""The shared network as an ordinary user, who has no rights on the host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from namespaces import Namespace
from ordinary_user import NOBODY
from standing_networks import parts
from tartlet.network.namespace.userns import Userns
from vm_lab import until

pytestmark = [pytest.mark.needs_root]

TESTS = Path(__file__).parent.parent
AS_NOBODY = f"""
import os, sys
sys.path.insert(0, {str(TESTS)!r})
import anyio
from tap_guest import TapGuest
from tartlet.network.attachment import AttachRequest, NetworkMode
from tartlet.network.namespace.userns import Userns

def guest_of(attachment, mac):
    return TapGuest(descriptor=attachment.cables[0].descriptors[0], mac=bytes.fromhex(mac.replace(":", "")))

async def main():
    print(os.getuid(), Userns().lacking())
    one = AttachRequest(vm="one", mac="7a:65:e4:3f:be:01", mode=NetworkMode.SOFTNET, allow="192.0.2.0/24")
    two = AttachRequest(vm="two", mac="7a:65:e4:3f:be:02", mode=NetworkMode.HOST)
    async with Userns().attach(one) as first, Userns().attach(two) as second:
        for attachment, mac in ((first, one.mac), (second, two.mac)):
            print(str(guest_of(attachment, mac).leased().address) == attachment.record.guest_address)
        print(first.record.ssh_port, "ports below 1024" in str(first.notes))

anyio.run(main)
"""


@pytest.fixture(autouse=True)
def usable() -> None:
    if lack := Userns().lacking():
        pytest.skip(lack.reason)


def as_nobody(network: Namespace, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program as an ordinary user in a network."""
    script = str(TESTS / "ordinary_user.py")
    return network.run("unshare", "--mount", sys.executable, script, str(NOBODY), *words)


def test_filter_and_addresses_without_any_rights(private_network: Namespace) -> None:
    assert private_network.run("sh", "-c", "echo 1024 > /proc/sys/net/ipv4/ip_unprivileged_port_start").returncode == 0
    done = as_nobody(private_network, sys.executable, "-c", AS_NOBODY)
    assert done.stdout.splitlines() == [f"{NOBODY} None", "True", "True", "2222 True"], done.stderr
    until(lambda: not parts(private_network.holder), "the network to end")


def test_a_system_that_forbids_namespaces_is_told_with_the_command_that_allows_them(
    private_network: Namespace, tmp_path: Path
) -> None:
    zero = tmp_path / "zero"
    zero.write_text("0\n")
    ask = tmp_path / "ask"
    ask.write_text("from tartlet.network.namespace.userns import Userns\nprint(Userns().lacking())\n")
    script = TESTS / "ordinary_user.py"
    forbidden = f"mount --bind {zero} /proc/sys/user/max_user_namespaces"
    asking = f"{sys.executable} {script} {NOBODY} {sys.executable} - < {ask}"
    done = private_network.run("unshare", "--mount", "sh", "-c", f"{forbidden} && exec {asking}")
    assert "sudo sysctl user.max_user_namespaces=10000" in done.stdout, done.stderr
