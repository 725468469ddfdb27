"""What other firewalls of this host do to VMs in its own network, and the commands that end it.

A packet passes a hook of the kernel only when every chain there lets it pass: what our rules accept, another program's
chain may still drop. What holds for `tart0`, where VMs with a way out are, holds for `tart1`, where host-only VMs are,
as far as DHCP goes.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from tartlet.network.install.host_rules import Chain, HostRules
from tartlet.network.shared.bridges import ROUTED as BRIDGE

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_LEGACY = Path("/proc/net/ip_tables_names")
_NO_WAY_OUT = "VMs in this host's network reach the host and nothing beyond it"
_NO_ADDRESS = "VMs in this host's network get no address and no names"

_REMEDIES = {
    ("docker", "forward"): (
        f"sudo iptables -I DOCKER-USER -i {BRIDGE} -j ACCEPT",
        f"sudo iptables -I DOCKER-USER -o {BRIDGE} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
    ),
    ("ufw", "forward"): (f"sudo ufw route allow in on {BRIDGE}",),
    ("ufw", "input"): (
        f"sudo ufw allow in on {BRIDGE} to any port 67 proto udp",
        f"sudo ufw allow in on {BRIDGE} to any port 53",
    ),
    ("iptables", "forward"): (
        f"sudo iptables -I FORWARD -i {BRIDGE} -j ACCEPT",
        f"sudo iptables -I FORWARD -o {BRIDGE} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
    ),
    ("iptables", "input"): (
        f"sudo iptables -I INPUT -i {BRIDGE} -p udp -m multiport --dports 53,67 -j ACCEPT",
        f"sudo iptables -I INPUT -i {BRIDGE} -p tcp --dport 53 -j ACCEPT",
    ),
}
_FIREWALLD = (
    "sudo firewall-cmd --permanent --new-zone=tart",
    f"sudo firewall-cmd --permanent --zone=tart --add-interface={BRIDGE}",
    "sudo firewall-cmd --permanent --zone=tart --add-service=dhcp --add-service=dns",
    "sudo firewall-cmd --permanent --new-policy=tart-out",
    "sudo firewall-cmd --permanent --policy=tart-out --add-ingress-zone=tart",
    "sudo firewall-cmd --permanent --policy=tart-out --add-egress-zone=ANY",
    "sudo firewall-cmd --permanent --policy=tart-out --set-target=ACCEPT",
    "sudo firewall-cmd --reload",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Something of this host that stands in the way of VMs in its network."""

    text: str
    remedy: tuple[str, ...]
    """Commands, to be given in this order."""


def obstacles() -> list[Obstacle]:
    """What stands in the way in this network namespace. Raises RulesUnreadable, ToolMissing."""
    rules = HostRules()
    found = [_obstacle(rules, chain) for hook in ("forward", "input") for chain in rules.hooked(hook)]
    different = {one.remedy: one for one in found if one is not None}
    return [*_switched_off(), *_old_rules(), *different.values()]


def _obstacle(rules: HostRules, chain: Chain) -> Obstacle | None:
    if not rules.refuses(chain) or rules.mentions(chain, BRIDGE):
        return None
    symptom = _NO_WAY_OUT if chain.hook == "forward" else _NO_ADDRESS
    owner = _owner(rules, chain)
    return Obstacle(
        text=f"{_described(owner, chain)} drops what it does not know: {symptom}", remedy=_remedy(owner, chain)
    )


def _owner(rules: HostRules, chain: Chain) -> str:
    """The program that made a chain, by the names it gives."""
    names = [other.name for other in rules.beside(chain)]
    if chain.table == "firewalld":
        return "firewalld"
    if "DOCKER-USER" in names and chain.hook == "forward":
        return "docker"
    if any(name.startswith("ufw-") for name in names):
        return "ufw"
    return "iptables" if (chain.family, chain.table) == ("ip", "filter") and chain.name.isupper() else "nft"


def _described(owner: str, chain: Chain) -> str:
    if owner == "nft":
        return f"the chain {chain.name} of the nftables table {chain.family} {chain.table}"
    return f"{owner}'s firewall ({chain.name})" if owner != "iptables" else f"iptables ({chain.name})"


def _remedy(owner: str, chain: Chain) -> tuple[str, ...]:
    if owner == "firewalld":
        return _FIREWALLD
    if owner != "nft":
        return _REMEDIES[owner, str(chain.hook)]
    rule = f"sudo nft insert rule {chain.family} {chain.table} {chain.name}"
    if chain.hook == "forward":
        return (f"{rule} iifname {BRIDGE} accept", f"{rule} oifname {BRIDGE} ct state related,established accept")
    return (f"{rule} iifname {BRIDGE} meta l4proto {{ tcp, udp }} th dport {{ 53, 67 }} accept",)


def _switched_off() -> list[Obstacle]:
    """The helper switches forwarding on with its network; somebody may have switched it off again."""
    stands = any(name == BRIDGE for _, name in socket.if_nameindex())
    if not stands or _FORWARDING.read_text().strip() != "0":
        return []
    return [
        Obstacle(
            text=f"the kernel does not forward packets: {_NO_WAY_OUT}", remedy=("sudo sysctl net.ipv4.ip_forward=1",)
        )
    ]


def _old_rules() -> list[Obstacle]:
    try:
        tables = _LEGACY.read_text().split()
    except OSError:  # this kernel has none, or they are root's to read
        return []
    if "filter" not in tables:
        return []
    text = "rules of the old iptables are in force, which cannot be judged here"
    return [Obstacle(text=text, remedy=("sudo iptables-legacy-save -t filter",))]
