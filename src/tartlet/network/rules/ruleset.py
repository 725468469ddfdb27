"""A VM's filter as input for `nft`. Nothing is loaded here.

Each text is one transaction for `nft.Rules.load`. Tables are owned: the kernel removes them when the process that
loaded them ends, however it ends (nft(8), the table flag `owner`).
"""

from __future__ import annotations

from collections.abc import Sequence

from tartlet.network.policy.policy import Exposure, Policy
from tartlet.network.rules.guard import MARK
from tartlet.network.rules.judging import REFUSED_SETS, REMEMBER, InForce, flow_table, named_sets, policy_steps
from tartlet.network.rules.plug import Plug


def table_for(plug: Plug, policy: Policy | None) -> list[str]:
    """A VM's filter, to be loaded before the guest's first packet: transactions, in order.

    Without a policy the VM reaches everything, and is only kept from pretending to be another machine.
    """
    expose = policy.expose if policy else ()
    base = _bridge_table(plug) + (_expose_table(plug, expose) if expose else "")
    return [base, *policy_steps(plug, InForce(policy=policy))]


def removal(plug: Plug) -> str:
    """Takes away all that `table_for` and `policy_steps` made; the guard then drops what still comes from the tap."""
    flows = (f"inet {flow_table(plug, slot)}" for slot in ("a", "b"))
    tables = (f"bridge {plug.table}", f"inet {plug.table}", f"inet {plug.table}_names", *flows)
    return "\n".join(f"add table {table} {{ flags owner; }}\ndelete table {table}" for table in tables)


def name_server_table(plug: Plug, port: int) -> str:
    """Leads the VM's questions to the gateway's DNS to another UDP port of the gateway. `removal` takes it away."""
    return f"""table inet {plug.table}_names {{
    flags owner;
    chain asking {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "{plug.bridge}" ip saddr {plug.address} ip daddr {plug.gateway} udp dport 53 redirect to :{port}
    }}
}}"""


def _bridge_table(plug: Plug) -> str:
    own = f"{{ 0.0.0.0, {plug.address} }}"
    return f"""table bridge {plug.table} {{
    flags owner;
    {named_sets("a")}
    {named_sets("b")}
    {REFUSED_SETS}
    chain refuse {{
        {REMEMBER}
    }}
    chain judge {{
        drop
    }}
    chain arp_vm {{
        arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp operation {{ request, reply }} \
arp saddr ether {plug.mac} arp saddr ip {own} accept
        counter drop comment "false_arp"
    }}
    chain ip_vm {{
        ip hdrlength != 5 counter drop comment "foreign_protocol"
        ip saddr {own} ip daddr {{ 255.255.255.255, {plug.gateway} }} udp sport 68 udp dport 67 accept
        ip saddr != {plug.address} counter drop comment "foreign_source"
        goto judge
    }}
    chain from_vm {{
        type filter hook prerouting priority -300; policy accept;
        iifname != "{plug.tap}" accept
        ether saddr != {plug.mac} counter drop comment "foreign_mac"
        meta mark set meta mark & 0x00ffffff | {MARK}
        ether type arp goto arp_vm
        ether type ip goto ip_vm
        counter drop comment "foreign_protocol"
    }}
}}"""


def _expose_table(plug: Plug, expose: Sequence[Exposure]) -> str:
    """Ports of the host's own addresses, for everybody but its VMs and its loopback."""
    forwards = "\n        ".join(f"tcp dport {one.port} dnat ip to {plug.address}:{one.guest_port}" for one in expose)
    return f"""
table inet {plug.table} {{
    flags owner;
    chain arriving {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "{plug.bridge}" accept
        fib daddr type != local accept
        {forwards}
    }}
    chain own {{
        type nat hook output priority -100; policy accept;
        fib daddr type != local accept
        ip daddr 127.0.0.0/8 accept
        {forwards}
    }}
}}"""
