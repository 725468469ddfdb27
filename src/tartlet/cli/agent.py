"""`tart agent`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import running_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb, VerbGroup
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import VmState
from tartlet.vm.stored.store import VmNotRunning


@click.command("install", cls=Verb)
@click.option("--ssh", "user", metavar="<user>", help="Go in by SSH as this user, who may use sudo.")
@click.argument("name", metavar="<name>", help="VM whose guest gets it.", shell_complete=running_vms)
@click.pass_obj
def install(app: App, name: str, *, user: str | None) -> None:
    """Bring Tartlet's own guest agent into a running VM, or renew it there.

    It goes in through the QEMU guest agent, or by SSH. The guest needs Python 3.8 or newer, and systemd or OpenRC.
    Debian and Ubuntu get it as the package tart-agent, and need no network for it.
    """
    vm = app.store.open(name)
    if vm.state() is not VmState.RUNNING:
        raise VmNotRunning(name)

    import anyio

    anyio.run(_install, vm, user)
    click.echo(f'Tartlet\'s agent answers in VM "{name}"')


async def _install(vm: VmFolder, user: str | None) -> None:
    from tartlet.guest.client.agent_install import install_agent, install_agent_by_ssh
    from tartlet.network import record
    from tartlet.vm.stored.address import wait_for_address

    if user is None:
        await install_agent(vm.path)
        return
    address = await wait_for_address(vm, None, 0)
    told = record.read(vm.path)
    port = told.ssh_port if told is not None and told.address == str(address) else 22
    await install_agent_by_ssh(vm.path, f"{user}@{address}", port=port)


command = VerbGroup("agent", "Look after the guest agent in a VM.", [install])
