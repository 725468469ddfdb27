"""`tart delete`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import any_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("delete", cls=Verb)
@click.argument(
    "names", metavar="<name>", nargs=-1, required=True, help="VMs or images to delete.", shell_complete=any_vms
)
@click.pass_obj
def command(app: App, names: tuple[str, ...]) -> None:
    """Delete VMs and cached images.

    They go in the given order; the first that cannot be deleted ends it. With its last tag an image goes too, unless
    it was pulled by its digest.
    """
    from tartlet.image.format.reference import looks_remote, parse

    store = app.store
    for name in names:
        if looks_remote(name):
            app.images.delete(parse(name))
        else:
            store.delete(name)
