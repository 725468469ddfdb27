"""`tart port-forward`."""

from __future__ import annotations

from contextlib import AsyncExitStack

import click

from tartlet.cli.candidates import running_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import VmState
from tartlet.vm.stored.store import VmNotRunning


@click.command("port-forward", cls=Verb)
@click.option(
    "--address",
    metavar="<address>",
    default="127.0.0.1",
    help="Address of this machine to listen on.",
)
@click.argument("name", metavar="<name>", help="VM to reach.", shell_complete=running_vms)
@click.argument(
    "ports",
    metavar="<[local:]remote>",
    nargs=-1,
    required=True,
    help="A port of the guest, and the port of this machine that leads to it: the same by default, any free one for 0.",
)
@click.pass_obj
def command(app: App, name: str, ports: tuple[str, ...], *, address: str) -> None:
    """Make ports of a running VM's loopback reachable on this machine.

    It needs Tartlet's own agent inside the VM, and no network. It ends with Ctrl+C or with the VM.
    """
    pairs = [_pair(word) for word in ports]
    _refuse_twice([local for local, _ in pairs if local])
    vm = app.store.open(name)
    if vm.state() is not VmState.RUNNING:
        raise VmNotRunning(name)

    import anyio

    anyio.run(_forward, vm, address, pairs)


async def _forward(vm: VmFolder, address: str, pairs: list[tuple[int, int]]) -> None:
    from tartlet.guest.client.port_forward import forwarded
    from tartlet.host.watched import watched

    def note(text: str) -> None:
        click.echo(text, err=True)

    async with AsyncExitStack() as held:
        lines: list[str] = []
        for local, remote in pairs:
            made = await held.enter_async_context(
                forwarded(vm.path, remote, address=address, local_port=local, note=note)
            )
            lines.append(f"{address}:{made} -> {vm.name}:{remote}")
        click.echo("\n".join(lines))  # all of them can be had
        process = held.enter_context(watched(vm.supervisor))
        if process is not None:
            await process.ended()
    note(f'VM "{vm.name}" has ended')


def _pair(word: str) -> tuple[int, int]:
    """Local and remote port."""
    local, colon, remote = word.rpartition(":")
    return _port(local, word, least=0) if colon else _port(remote, word), _port(remote, word)


def _refuse_twice(ports: list[int]) -> None:
    for port in ports:
        if ports.count(port) > 1:
            raise InvalidArgument(
                f"port {port} of this machine can lead to one port of the guest only", "write 0:80 for any free port"
            )


def _port(digits: str, word: str, *, least: int = 1) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and least <= int(digits) <= 0xFFFF):
        raise InvalidArgument(f"{word!r} names no ports", "write 8080:80, or 80 for the same port on both sides")
    return int(digits)
