"""The table of verbs; the module of one is imported when it is called and no earlier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, cast

import click

from tartlet.cli.wiring import App
from tartlet.cli.words import VerbGroup

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


VERBS: Mapping[str, str] = {
    "create": "Create a VM.",
    "clone": "Make a VM that starts as a copy of another, or of an image.",
    "run": "Run a VM and stay until it ends.",
    "set": "Change the configuration of a VM.",
    "get": "Show the configuration of a VM or of a cached image.",
    "list": "List VMs and cached images.",
    "login": "Log in to a registry.",
    "logout": "Forget the credentials of a registry.",
    "ip": "Print the IP address of a VM.",
    "exec": "Run a command inside a running VM.",
    "pull": "Bring an image from a registry into the cache.",
    "push": "Push a VM to a registry.",
    "import": "Import a VM from a file.",
    "export": "Export a VM to a file.",
    "prune": "Remove what can be done without.",
    "rename": "Give a VM another name.",
    "stop": "Stop a VM.",
    "delete": "Delete VMs and cached images.",
    "suspend": "Save a running VM to disk; its next run continues there.",
    "cp": "Copy files and folders between this machine and a running VM.",
    "sync": "Synchronise the folders of 'run --dir=...:sync' now.",
    "agent": "Look after the guest agent in a VM.",
    "port-forward": "Make ports of a running VM's loopback reachable on this machine.",
    "wait": "Wait until a VM has ended, and print how it did.",
    "logs": "Show the logs of a VM.",
    "network": "Look after the network of VMs.",
    "snapshot": "Keep states of a VM, and return to them.",
    "fork": "Make running copies of a running VM, memory included.",
    "console": "Use the serial console of a running VM; Ctrl+] leaves it.",
    "web": "Use the screen and the serial terminal of a running VM in a browser.",
    "screenshot": "Take a picture of a running VM's screen.",
    "doctor": "Show what this machine offers, and what stands in the way.",
    "help": "Show help about the program or one of its subcommands.",
}
"""Each verb and its line in the help: the original's order, then those of this program.

A verb lives in the module of its name. A test holds the line against the first line of its own help.
"""

HIDDEN: Mapping[str, str] = {
    "fqn": "Print the name of an image by its digest.",
}
"""Verbs that the help leaves out, as the original does."""


@click.pass_context
def _without_a_verb(ctx: click.Context) -> None:
    """Show the help. Runs before every verb too, and then leaves the word to it."""
    if ctx.invoked_subcommand is None:
        app: App = ctx.obj
        app.collect_garbage()
        click.echo(ctx.get_help())


class Tart(VerbGroup):
    """The command itself: its first word chooses the verb."""

    def __init__(self) -> None:
        text = "Run virtual machines, clone them, and keep them as images."
        super().__init__("tart", text, (), alone=_without_a_verb)

    def overviews(self) -> Iterable[tuple[str, str]]:
        """Each verb and its line, without importing it."""
        return VERBS.items()

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names of the verbs, in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The verb `cmd_name`, or None."""
        if cmd_name not in VERBS and cmd_name not in HIDDEN:
            return None
        return cast("click.Command", import_module(f"tartlet.cli.{cmd_name.replace('-', '_')}").command)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs that begin like `incomplete`, or the options that every command has."""
        from tartlet.cli.candidates import standing_options, verbs

        return standing_options(incomplete) if incomplete.startswith("-") else verbs(ctx, None, incomplete)
