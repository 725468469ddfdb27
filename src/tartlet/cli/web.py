"""`tart web`."""

from __future__ import annotations

import os
import sys

import click

from tartlet.cli.candidates import running_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("web", cls=Verb)
@click.argument("name", metavar="<name>", help="Running VM.", shell_complete=running_vms)
@click.pass_obj
def command(app: App, name: str) -> None:
    """Use the screen and the serial terminal of a running VM in a browser.

    Prints a link that works once, within an hour, and opens the page if there is a desktop and a terminal. The VM needs
    no --web.
    """
    vm = app.store.open(name)

    import anyio

    from tartlet.console.opener import has_desktop
    from tartlet.vm.control.web_link import open_web, web_link

    click.echo(anyio.run(web_link, vm))
    if sys.stdout.isatty() and not app.settings.plain_progress and has_desktop(os.environ):
        anyio.run(open_web, vm)
