"""`tart screenshot`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tartlet.cli.candidates import files, running_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import FileTrouble, InvalidArgument


@click.command("screenshot", cls=Verb)
@click.argument("name", metavar="<name>", help="Running VM.", shell_complete=running_vms)
@click.argument(
    "path",
    metavar="<path>",
    required=False,
    help="PNG file to write; - for standard output. Without it: <name>.png here.",
    shell_complete=files,
)
@click.pass_obj
def command(app: App, name: str, path: str | None) -> None:
    """Take a picture of a running VM's screen.

    It works without a window. Prints where the picture is.
    """
    vm = app.store.open(name)
    if path == "-" and sys.stdout.isatty():
        raise InvalidArgument("a picture cannot be written to a terminal", f"tart screenshot {name} {name}.png")

    import anyio

    from tartlet.vm.control.screen import screenshot

    picture = anyio.run(screenshot, vm)
    if path == "-":
        sys.stdout.buffer.write(picture)
        return
    target = Path(path or f"{name}.png")
    try:
        target.write_bytes(picture)
    except OSError as exc:
        hint = "name a file in a folder that is there and that you may write to"
        raise FileTrouble("cannot write the picture", target, exc, hint) from exc
    click.echo(target)
