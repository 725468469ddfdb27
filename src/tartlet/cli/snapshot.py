"""`tart snapshot`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tartlet.cli.candidates import local_vms
from tartlet.cli.formats import JSON, format_option
from tartlet.cli.output import json_text, table
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument

if TYPE_CHECKING:
    from tartlet.vm.snapshot_names import Snapshot

ACTIONS = ("create", "list", "restore", "delete")


@click.command("snapshot", cls=Verb)
@click.argument("action", metavar="<action>", type=click.Choice(ACTIONS), help="create, list, restore or delete.")
@click.argument("name", metavar="<name>", help="VM it is about.", shell_complete=local_vms)
@click.argument(
    "tag",
    metavar="<tag>",
    required=False,
    help="Name of the snapshot. Without it, create takes the time and restore the latest.",
)
@format_option
@click.pass_obj
def command(app: App, action: str, name: str, tag: str | None, format_: str) -> None:
    """Keep states of a VM, and return to them.

    A snapshot of a running VM holds its memory too, and the VM goes on; after a restore its next run goes on there. A
    restore needs the VM stopped, and replaces its present state.
    """
    match action:
        case "create":
            _create(app, name, tag)
        case "list":
            _list(app, name, tag, format_)
        case "restore":
            _restore(app, name, tag)
        case _:
            _delete(app, name, tag)


def _create(app: App, name: str, tag: str | None) -> None:
    import anyio

    from tartlet.vm.snapshot import create_snapshot

    click.echo(anyio.run(create_snapshot, app.store, name, tag).tag)


def _list(app: App, name: str, tag: str | None, format_: str) -> None:
    from tartlet.vm.snapshot_names import snapshots

    if tag is not None:
        raise InvalidArgument("list takes no tag", f"tart snapshot list {name}")
    found = snapshots(app.store.open(name))
    if format_ == JSON:
        click.echo(json_text([_row(snapshot) for snapshot in found]))
        return
    click.echo(table(["Tag", "Created", "Memory"], [list(map(str, _row(snapshot).values())) for snapshot in found]))


def _row(snapshot: Snapshot) -> dict[str, object]:
    created = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(snapshot.created))
    return {"Tag": snapshot.tag, "Created": created, "Memory": snapshot.memory}


def _restore(app: App, name: str, tag: str | None) -> None:
    from tartlet.vm.snapshot import restore_snapshot

    snapshot = restore_snapshot(app.store, name, tag)
    state = "suspended" if snapshot.memory else "stopped"
    click.echo(f"{name} is as it was in {snapshot.tag}, and {state}; go on with: tart run {name}", err=True)


def _delete(app: App, name: str, tag: str | None) -> None:
    from tartlet.vm.snapshot import delete_snapshot

    if tag is None:
        raise InvalidArgument("which snapshot?", f"`tart snapshot list {name}` shows those there are")
    delete_snapshot(app.store, name, tag)
