"""`tart exec`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import local_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument
from tartlet.vm.model import VmState
from tartlet.vm.store import VmNotRunning


@click.command("exec", cls=Verb, context_settings={"allow_interspersed_args": False})
@click.option("-i", "interactive", is_flag=True, help="Pass standard input on to the command.")
@click.option("-t", "tty", is_flag=True, help="Give the command a terminal.")
@click.argument("name", metavar="<name>", help="VM to run it in.", shell_complete=local_vms)
@click.argument(
    "words", metavar="<command>", nargs=-1, required=True, type=click.UNPROCESSED, help="The command and its arguments."
)
@click.pass_context
def command(ctx: click.Context, name: str, words: tuple[str, ...], *, interactive: bool, tty: bool) -> None:
    """Run a command inside a running VM.

    It needs a guest agent inside the VM, and no network. Every word after the VM's name belongs to the command. The
    exit code is that of the command.
    """
    remote = words[1:] if words[:1] == ("--",) else words
    if not remote:
        raise InvalidArgument("there is no command to run", f"try: tart exec {name} uname -a")
    app: App = ctx.obj
    vm = app.store.open(name)
    if vm.state() is not VmState.RUNNING:
        raise VmNotRunning(name)

    from functools import partial

    import anyio

    from tartlet.guest.exec_session import exec_in_terminal

    ctx.exit(anyio.run(partial(exec_in_terminal, vm.path, remote, interactive=interactive, tty=tty)))
