"""Other firewalls on the way of VMs: they are found, and the commands that are told end what they do."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from command import TART
from installed_for_all import OwnSystem, own_system
from namespaces import Namespace, entered
from network_lab import GATEWAY, Lab, done, laid_out
from tartlet.network.install.firewalls import Obstacle, obstacles

__all__ = ["own_system"]
pytestmark = [pytest.mark.anyio, pytest.mark.needs_root]

TESTS = Path(__file__).parent.parent
DOCKER = """
iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN
iptables -A FORWARD -j DOCKER-USER; iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
"""
CAREFUL = "iptables -P INPUT DROP; iptables -A INPUT -i lo -j ACCEPT; iptables -P FORWARD DROP"
OWN = """nft -f - <<'E'
table inet mine {
    chain routed { type filter hook forward priority 0; policy accept; iifname "up0" accept; counter reject; }
    chain local { type filter hook input priority 10; policy drop; iifname { "lo", "up0" } accept; }
}
E"""
UFW = "sed -i s/^IPV6=yes/IPV6=no/ /etc/default/ufw; ufw --force enable >/dev/null"
FIREWALLD = """
mkdir -p /run/dbus; dbus-daemon --system --fork --nopidfile
firewalld --nofork --nopid & trap "kill -9 $!" EXIT  # so that it leaves its rules
for look in $(seq 100); do firewall-cmd --quiet --state 2>/dev/null && break; sleep 0.1; done
"""


@asynccontextmanager
async def host(rules: str) -> AsyncGenerator[Lab]:
    """A host with VMs in its network, and other rules beside."""
    for program in ("iptables", "nft"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    async with laid_out(None, None) as lab:
        done(lab.host, rules)
        yield lab


def beside(lab: Lab, script: str) -> None:
    """Run a shell script in the host's network, with an `/etc` that begins as this machine's. It has to succeed."""
    apart = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    ended = lab.host.run("unshare", *apart, sys.executable, TESTS / "own_system.py", "/opt", "sh", "-euc", script)
    assert ended.returncode == 0, ended


def found(inside: Namespace) -> list[Obstacle]:
    with entered(inside):
        return obstacles()


def follow(inside: Namespace, found: Sequence[Obstacle]) -> None:
    """Do what an administrator is told to do."""
    for command in (command for one in found for command in one.remedy):
        done(inside, command.removeprefix("sudo "))


def works(lab: Lab) -> tuple[bool, bool]:
    """Whether a VM reaches a server far away, and the name server of its network."""
    with lab.serving(lab.outside, 80), lab.serving(lab.host, 53):
        return lab.reached(lab.vms[0], "8.8.8.8", 80), lab.reached(lab.vms[0], GATEWAY, 53)


@pytest.mark.parametrize(
    ("rules", "said", "before"),
    [
        (DOCKER, ["docker's firewall (FORWARD)"], (False, True)),
        (CAREFUL, ["iptables (FORWARD)", "iptables (INPUT)"], (False, False)),
        (OWN, ["the chain routed of the nftables table inet mine", "the chain local of the"], (False, False)),
    ],
    ids=["docker", "iptables", "nft"],
)
async def test_what_is_told_helps(rules: str, said: list[str], before: tuple[bool, bool]) -> None:
    async with host(rules) as lab:
        assert works(lab) == before
        told = found(lab.host)
        assert [one.text.startswith(words) for one, words in zip(told, said, strict=True)] == [True] * len(said), told
        follow(lab.host, told)
        assert found(lab.host) == []
        assert works(lab) == (True, True)


@pytest.mark.parametrize(
    "rules", ["true", "iptables -A FORWARD -i eth9 -j DROP", "iptables -t nat -A POSTROUTING -j ACCEPT"]
)
async def test_rules_that_let_vms_pass_are_no_matter(rules: str) -> None:
    async with host(rules) as lab:
        assert found(lab.host) == []
        assert works(lab) == (True, True)


@pytest.mark.parametrize(
    ("program", "start", "said"),
    [
        ("ufw", UFW, ["ufw's firewall (FORWARD)", "ufw's firewall (INPUT)"]),
        ("firewalld", FIREWALLD, ["firewalld's firewall (filter_"]),
    ],
    ids=["ufw", "firewalld"],
)
async def test_what_is_told_helps_where_a_program_makes_the_rules(program: str, start: str, said: list[str]) -> None:
    if shutil.which(program) is None or shutil.which("dbus-daemon") is None:
        pytest.skip(f"needs {program}")
    async with host("true") as lab:
        beside(lab, start)
        assert works(lab) == (False, False)
        told = found(lab.host)
        assert [one.text.startswith(words) for one, words in zip(told, said, strict=True)] == [True] * len(said), told
        remedy = "\n".join(command.removeprefix("sudo ") for one in told for command in one.remedy)
        beside(lab, f"{start}\n{remedy}")
        assert found(lab.host) == []
        assert works(lab) == (True, True)


async def test_forwarding_that_somebody_switched_off() -> None:
    async with host("echo 0 > /proc/sys/net/ipv4/ip_forward") as lab:
        assert works(lab) == (False, True)
        told = found(lab.host)
        assert [one.remedy for one in told] == [("sudo sysctl net.ipv4.ip_forward=1",)]
        follow(lab.host, told)
        assert works(lab) == (True, True)


def test_who_may_not_look_is_told_so(private_network: Namespace) -> None:
    script = "from tartlet.network.install.firewalls import obstacles; obstacles()"
    without = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--")
    said = private_network.run(*without, sys.executable, "-c", script).stderr
    assert said.splitlines()[-1].endswith("RulesUnreadable: only root can read this host's packet filters")


def test_doctor_tells_where_the_helper_is_installed(own_system: OwnSystem, tmp_path: Path) -> None:
    """`/etc` and the network are the test's own."""
    home = f"TART_HOME={tmp_path} {TART} doctor"
    rules = "iptables -P FORWARD DROP"
    done = own_system.sh(
        f"{home} | grep -c firewalls: || true; mkdir /etc/tartlet; touch /etc/tartlet/setup.json;"
        f"{home} | grep -A 1 firewalls:; {rules}; {home} | grep -A 1 firewalls:",
        namespaces=("--mount", "--net"),
    )
    first, clean, *_, warned, hint = done.out.splitlines()
    assert (first, clean) == ("0", "ok      firewalls: none stands in the way of VMs in this host's network"), done
    assert warned.startswith("note    firewalls: iptables (FORWARD) drops")
    assert hint.strip().startswith("sudo iptables -I FORWARD -i tart0 -j ACCEPT; sudo iptables")
