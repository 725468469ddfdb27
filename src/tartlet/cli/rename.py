"""`tart rename`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import local_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.vm.stored.model import checked_new_name


@click.command("rename", cls=Verb)
@click.argument("name", metavar="<name>", help="VM to rename.", shell_complete=local_vms)
@click.argument("new_name", metavar="<new-name>", help="Its new name.")
@click.pass_obj
def command(app: App, name: str, new_name: str) -> None:
    """Give a VM another name."""
    app.store.rename(name, checked_new_name(new_name))
