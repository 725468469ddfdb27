"""`tart import`."""  # noqa: N999 - a verb lives in the module of its name, which is found by that

from __future__ import annotations

from pathlib import Path

import click

from tartlet.cli.candidates import files, local_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("import", cls=Verb)
@click.argument("path", metavar="<path>", help="File that 'tart export' made.", shell_complete=files)
@click.argument("name", metavar="<name>", help="Name of the VM.", shell_complete=local_vms)
@click.pass_obj
def command(app: App, path: str, name: str) -> None:
    """Import a VM from a file.

    A stopped VM of that name is replaced.
    """
    from tartlet.vm.images.import_archive import import_archive
    from tartlet.vm.stored.model import checked_new_name

    checked_new_name(name)
    store = app.store
    click.echo("importing...")
    import_archive(store, Path(path), name)
