"""`tart list`."""

from __future__ import annotations

import time

import click

from tartlet.cli.formats import JSON, format_option, whole_gigabytes
from tartlet.cli.output import json_text, table
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.units import human_age, human_size
from tartlet.vm.stored.listing import Entry, image_entries, local_entries
from tartlet.vm.stored.model import VmState

_TITLES = ("Source", "Name", "Disk", "Size", "Accessed", "State")


@click.command("list", cls=Verb)
@click.option(
    "--source", metavar="<source>", type=click.Choice(["local", "oci"]), help="Only local VMs, or only cached images."
)
@format_option
@click.option("-q", "--quiet", is_flag=True, help="Only print names, one a line.")
@click.pass_obj
def command(app: App, *, source: str | None, format_: str, quiet: bool) -> None:
    """List VMs and cached images.

    An image has a line for each of its tags and one for its digest.
    """
    store = app.store
    images = app.images if source != "local" and app.has_images else None
    if quiet:
        names = [] if source == "oci" else store.names()
        names += [str(cached.name) for cached in images.names()] if images else []
        click.echo("".join(f"{name}\n" for name in names), nl=False)
        return
    entries = [] if source == "oci" else local_entries(store)
    entries += image_entries(images) if images else []
    if format_ == JSON:
        click.echo(json_text([_document(entry) for entry in entries]))
    else:
        now = time.time()
        click.echo(table(_TITLES, [_cells(entry, now) for entry in entries]) if entries else "")


def _cells(entry: Entry, now: float) -> tuple[str, ...]:
    disk, size = human_size(entry.disk), human_size(entry.size)
    return entry.source, entry.name, disk, size, human_age(now - entry.accessed), entry.state


def _document(entry: Entry) -> dict[str, object]:
    return {
        "Source": entry.source,
        "Name": entry.name,
        "Disk": whole_gigabytes(entry.disk),
        "Size": whole_gigabytes(entry.size),
        "Accessed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.accessed)),
        "Running": entry.state is VmState.RUNNING,
        "State": entry.state,
    }
