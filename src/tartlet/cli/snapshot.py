"""`tart snapshot`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from tartlet.cli.candidates import local_vms
from tartlet.cli.formats import JSON, format_option
from tartlet.cli.output import json_text, table
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb, VerbGroup

if TYPE_CHECKING:
    from tartlet.vm.stored.snapshot_names import Snapshot

_Decorated = Callable[..., Any]


def _vm(text: str) -> Callable[[_Decorated], _Decorated]:
    return click.argument("name", metavar="<name>", help=text, shell_complete=local_vms)


def _tag(text: str, *, required: bool = False) -> Callable[[_Decorated], _Decorated]:
    return click.argument("tag", metavar="<tag>", help=text, required=required)


@click.command("create", cls=Verb)
@_vm("VM whose state is kept.")
@_tag("Name of the snapshot. (default: the time)")
@click.pass_obj
def create(app: App, name: str, tag: str | None) -> None:
    """Keep the present state of a VM, and print the snapshot's tag.

    A snapshot of a running VM holds its memory too, and the VM goes on.
    """
    import anyio

    from tartlet.vm.control.snapshot import create_snapshot

    click.echo(anyio.run(create_snapshot, app.store, name, tag).tag)


@click.command("list", cls=Verb)
@_vm("VM whose snapshots are wanted.")
@format_option
@click.pass_obj
def list_(app: App, name: str, format_: str) -> None:
    """List the snapshots of a VM, the oldest first."""
    from tartlet.vm.stored.snapshot_names import snapshots

    found = snapshots(app.store.open(name))
    if format_ == JSON:
        click.echo(json_text([_row(snapshot) for snapshot in found]))
        return
    click.echo(table(["Tag", "Created", "Memory"], [list(map(str, _row(snapshot).values())) for snapshot in found]))


def _row(snapshot: Snapshot) -> dict[str, object]:
    created = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(snapshot.created))
    return {"Tag": snapshot.tag, "Created": created, "Memory": snapshot.memory}


@click.command("restore", cls=Verb)
@_vm("VM to put back.")
@_tag("Name of the snapshot. (default: the latest)")
@click.pass_obj
def restore(app: App, name: str, tag: str | None) -> None:
    """Put a stopped VM back into the state of a snapshot; its present state is gone.

    After a snapshot with memory the VM is suspended, and its next run goes on there.
    """
    from tartlet.vm.control.snapshot import restore_snapshot

    snapshot = restore_snapshot(app.store, name, tag)
    state = "suspended" if snapshot.memory else "stopped"
    click.echo(f"{name} is as it was in {snapshot.tag}, and {state}; go on with: tart run {name}", err=True)


@click.command("delete", cls=Verb)
@_vm("VM whose snapshot goes.")
@_tag("Name of the snapshot.", required=True)
@click.pass_obj
def delete(app: App, name: str, tag: str) -> None:
    """Delete a snapshot; the VM stays as it is."""
    from tartlet.vm.control.snapshot import delete_snapshot

    delete_snapshot(app.store, name, tag)


command = VerbGroup("snapshot", "Keep states of a VM, and return to them.", [create, list_, restore, delete])
