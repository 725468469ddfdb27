"""`tart exec`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import local_vms
from tartlet.cli.numbers import AT_LEAST_ONE
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument
from tartlet.vm.stored.model import VmState
from tartlet.vm.stored.store import VmNotRunning


@click.command("exec", cls=Verb, context_settings={"allow_interspersed_args": False})
@click.option("-i", "interactive", is_flag=True, help="Pass standard input on to the command.")
@click.option("-t", "tty", is_flag=True, help="Give the command a terminal.")
@click.option(
    "--env",
    "variables",
    metavar="<name>=<value>",
    multiple=True,
    help="Set an environment variable. Can be given several times.",
)
@click.option("--workdir", metavar="<path>", default="", help="Folder of the guest to run it in.")
@click.option("--user", metavar="<user>", default="", help="User of the guest to run it as.")
@click.option("--detach", is_flag=True, help="Start the command and leave it running.")
@click.option("--timeout", metavar="<seconds>", type=AT_LEAST_ONE, help="Kill the command after that time; exit 124.")
@click.argument("name", metavar="<name>", help="VM to run it in.", shell_complete=local_vms)
@click.argument(
    "words", metavar="<command>", nargs=-1, required=True, type=click.UNPROCESSED, help="The command and its arguments."
)
@click.pass_context
def command(
    ctx: click.Context,
    name: str,
    words: tuple[str, ...],
    *,
    interactive: bool,
    tty: bool,
    variables: tuple[str, ...],
    workdir: str,
    user: str,
    detach: bool,
    timeout: int | None,
) -> None:
    """Run a command inside a running VM.

    It needs a guest agent inside the VM, and no network. Every word after the VM's name belongs to the command. The
    exit code is that of the command.
    """
    remote = words[1:] if words[:1] == ("--",) else words
    if not remote:
        raise InvalidArgument("there is no command to run", f"try: tart exec {name} uname -a")
    if detach and (interactive or tty):
        raise InvalidArgument("a detached command has neither input nor terminal", "leave out -i and -t, or --detach")
    env = dict(map(_variable, variables))
    app: App = ctx.obj
    vm = app.store.open(name)
    if vm.state() is not VmState.RUNNING:
        raise VmNotRunning(name)

    from functools import partial

    import anyio

    from tartlet.guest.client.exec_session import exec_in_terminal
    from tartlet.guest.commands import Command

    asked = Command(
        name=remote[0],
        args=remote[1:],
        env=env,
        workdir=workdir,
        user=user,
        interactive=interactive,
        tty=tty,
        detach=detach,
    )
    ctx.exit(anyio.run(partial(exec_in_terminal, vm.path, asked, limit=timeout)))


def _variable(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not name or not equals:
        raise InvalidArgument(f"{word!r} sets no variable", "write --env NAME=VALUE")
    return name, value
