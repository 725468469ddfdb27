"""A fork's first moments: its guest learns that it is another machine before it meets anybody."""

from __future__ import annotations

import os

import anyio

from tartlet.build.seed import valid_hostname
from tartlet.errors import UserError
from tartlet.guest.commands import Command, ignored
from tartlet.guest.errors import AgentUnavailable
from tartlet.guest.rpc.channel import connect
from tartlet.vm.planning.inherited import Inherited
from tartlet.vm.running.live import RunningVm

_PATIENCE = 20.0
"""Seconds the guest's agent gets in all."""

_NEWS = 3.0
"""Seconds in which QEMU tells which ports the guest has open, once it goes on; mostly it does so at once."""

_CARD = "card0"

_BECOME_ANOTHER = r"""
printf %s "$FRESH" > /dev/urandom
for card in /sys/class/net/*; do
  read -r mac < "$card/address" && [ "$mac" = "$1" ] && ip link set dev "${card##*/}" address "$2" && mine=${card##*/}
done
for file in /etc/machine-id /var/lib/dbus/machine-id; do
  [ -s "$file" ] && [ ! -h "$file" ] && echo "$4" > "$file"
done
hostname "$3" && [ -e /etc/hostname ] && echo "$3" > /etc/hostname
(sleep 1; networkctl renew "$mine" || { killall -USR2 udhcpc && killall -USR1 udhcpc; }) > /dev/null 2>&1 < /dev/null &
"""
"""Gets the old MAC address, the new one, the host name and a machine-id, and fresh random bytes as $FRESH.

The cable is plugged in a moment later, and then the guest is to ask for an address. Other DHCP clients, such as
NetworkManager's, do so by themselves. Few programs are started: each one takes long in an emulated guest.
"""


async def settled(vm: RunningVm, name: str, inherited: Inherited) -> None:
    """Let the halted fork go on with its cable unplugged, give it an identity of its own, and plug the cable in.

    A guest without an agent keeps its old one, which is noted. Raises CommandFailed, MonitorUnreachable.
    """
    await vm.monitor.plug_cable(_CARD, plugged=False)
    await vm.monitor.cont()
    await _become_another(vm, inherited.mac, vm.plan.config.mac_address, valid_hostname(name))
    await vm.monitor.plug_cable(_CARD, plugged=True)


async def _become_another(vm: RunningVm, *arguments: str) -> None:
    words = ("-c", _BECOME_ANOTHER, "sh", *arguments, os.urandom(16).hex())
    command = Command(name="/bin/sh", args=words, env={"FRESH": os.urandom(64).hex()}, user="root")
    try:
        if not await vm.agents.in_sight(_NEWS):
            raise AgentUnavailable
        with anyio.fail_after(_PATIENCE):
            async with connect(vm.folder, _PATIENCE) as channel:
                await channel.execute(command, ignored, ignored)
    except (UserError, TimeoutError) as exc:
        vm.announce(
            f"The guest was not told that it is another machine: {str(exc) or 'its agent did not answer in time'}"
        )
