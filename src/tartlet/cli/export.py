"""`tart export`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tartlet.cli.candidates import any_vms, files
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("export", cls=Verb)
@click.argument("name", metavar="<name>", help="VM, or image in the cache, to export.", shell_complete=any_vms)
@click.argument("path", metavar="<path>", required=False, help="File to write; <name>.tvm here.", shell_complete=files)
@click.pass_obj
def command(app: App, name: str, path: str | None) -> None:
    """Export a VM to a file.

    A file that is named is replaced without a question.
    """
    from tartlet.vm.images.export import export

    store = app.store
    target = Path(path) if path is not None else Path(f"{name}.tvm")
    if path is None and target.exists() and not _confirmed(target):
        return
    if export(store, name, target, lambda: click.echo("exporting...")).was_running:
        click.echo(f'VM "{name}" is running: the archive holds what a power cut would leave', err=True)


def _confirmed(target: Path) -> bool:
    click.echo(f"{target} exists already. Type yes to replace it: ", nl=False)
    sys.stdout.flush()
    return sys.stdin.readline().rstrip("\n") == "yes"
