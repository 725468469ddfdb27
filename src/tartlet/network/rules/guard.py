"""What all VMs of a network share of its filter, as input for `nft`. Nothing is loaded here."""

from __future__ import annotations

from ipaddress import IPv4Network

from tartlet.network.rules.plug import interface

TAP_PREFIX = "tartv"
"""What the names of all taps begin with. The guard drops what comes from such a tap and was judged by no table."""

MARK, _MARK_MASK = "0x7a000000", "0xff000000"
"""What a VM's table leaves on the frames that it has judged."""


def base_table(bridge: str, subnet: IPv4Network, *, host_only: bool = False, hides_clients: bool = False) -> str:
    """What all VMs of a network share: masquerading, or for a host-only network the closed door; and the guard.

    The guard drops frames of taps (`TAP_PREFIX`) that no VM's table has seen, so a VM whose table is gone is mute. The
    mark is wiped only after the guards of all networks here have looked. VMs are delivered ARP and IPv4 only: one rule
    for all of them, because every chain costs every packet a look. The tables have no owner, whose death would take the
    guard away while guests live.

    With `hides_clients` guests see their gateway as the client of exposed ports. Without it they do so only where the
    client is the host, which they could not answer.
    """
    interface(bridge)
    door = (
        f"""
    chain closed {{
        type filter hook forward priority filter; policy accept;
        iifname "{bridge}" drop
        oifname "{bridge}" drop
    }}"""
        if host_only
        else ""
    )
    masquerade = "" if host_only else f'ip saddr {subnet} oifname != "{bridge}" masquerade'
    return f"""table inet tart_{bridge} {{
    chain outgoing {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{bridge}" ct status dnat {"" if hides_clients else "fib saddr type local "}masquerade
        {masquerade}
    }}{door}
}}
table bridge tart_{bridge} {{
    chain guard {{
        type filter hook prerouting priority -200; policy accept;
        iifname "{TAP_PREFIX}*" meta mark & {_MARK_MASK} != {MARK} counter drop
    }}
    chain unmark {{
        type filter hook prerouting priority -190; policy accept;
        iifname "{TAP_PREFIX}*" meta mark set meta mark & 0x00ffffff
    }}
    chain delivery {{
        type filter hook postrouting priority 300; policy accept;
        oifname "{TAP_PREFIX}*" ether type != {{ arp, ip }} counter drop
    }}
}}"""
