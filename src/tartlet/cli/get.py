"""`tart get`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from tartlet.cli.candidates import any_vms
from tartlet.cli.formats import JSON, format_option, whole_gigabytes
from tartlet.cli.output import json_text, table
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.units import GB, MIB, human_size
from tartlet.vm.stored import config_file
from tartlet.vm.stored.listing import image_sizes, sizes
from tartlet.vm.stored.model import VmConfig, VmState
from tartlet.vm.stored.snapshot_names import snapshots

if TYPE_CHECKING:
    from tartlet.image.cache.cached_image import CachedImage


@click.command("get", cls=Verb)
@click.argument("name", metavar="<name>", help="VM or image to show.", shell_complete=any_vms)
@format_option
@click.pass_obj
def command(app: App, name: str, format_: str) -> None:
    """Show the configuration of a VM or of a cached image."""
    store, image = app.store, _cached(app, name)
    tags: list[str] = []
    if image:
        config, state, taken = config_file.read(image.config_path), VmState.STOPPED, image_sizes(image)
    else:
        vm = store.open(name)
        config, state, taken = vm.config(), vm.state(), sizes(vm)
        tags = [snapshot.tag for snapshot in snapshots(vm)]
    click.echo(shown(config, state, *taken, format_=format_, tags=tags))


def _cached(app: App, name: str) -> CachedImage | None:
    """The cached image of that name, marked as used; None when it is no image's name, or the image is not here."""
    from tartlet.image.format.reference import looks_remote, parse

    if not looks_remote(name) or not app.images.cached(parse(name)):
        return None
    return app.images.open(parse(name))


def shown(config: VmConfig, state: VmState, disk: int, size: int, *, format_: str, tags: Sequence[str] = ()) -> str:
    """The whole output; `disk` is what the guest sees and `size` what is taken here, in bytes; `tags` of snapshots."""
    document: dict[str, object] = {
        "OS": config.os,
        "CPU": config.cpu_count,
        "Memory": config.memory_size // MIB,
        "Disk": whole_gigabytes(disk),
        "DiskFormat": config.disk_format,
        "Size": f"{size / GB:.3f}",
        "Display": str(config.display),
        "Running": state is VmState.RUNNING,
        "State": state,
    }
    if tags:  # only then, so that everybody else sees what the original shows
        document["Snapshots"] = list(tags)
    if format_ == JSON:
        return json_text(document)
    readable = document | {"Disk": human_size(disk), "Size": human_size(size)}
    if tags:
        readable["Snapshots"] = ",".join(tags)
    titles = [title for title in readable if title != "Running"]
    return table(titles, [[str(readable[title]) for title in titles]])
