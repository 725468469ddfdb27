"""`tart clone`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tartlet.cli.candidates import any_vms
from tartlet.cli.formats import JSON, format_option
from tartlet.cli.numbers import AT_LEAST_ONE, U64
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument, UserError
from tartlet.units import GIB, human_size

if TYPE_CHECKING:
    from tartlet.image.format.reference import ImageName
    from tartlet.vm.stored.clone import Clone

_TRIES = 3


@click.command("clone", cls=Verb)
@click.argument("source", metavar="<source>", help="VM or image to copy.", shell_complete=any_vms)
@click.argument("new_name", metavar="<new-name>", help="Name of the copy.")
@click.option("--insecure", is_flag=True, help="Pull over HTTP, if a pull is needed.")
@click.option("--concurrency", metavar="<n>", type=AT_LEAST_ONE, default=4, help="Parallel downloads of a pull.")
@click.option(
    "--prune-limit", metavar="<gib>", type=U64, default=100, help="How much may be removed to make room, in GiB."
)
@click.option("--deduplicate", is_flag=True, hidden=True, help="Share what local images have; this is always done.")
@click.option("--stacked", is_flag=True, help="Stand on the disk of an image; on a Mac only.")
@format_option
@click.pass_obj
def command(
    app: App,
    /,
    source: str,
    new_name: str,
    *,
    insecure: bool,
    concurrency: int,
    prune_limit: int,
    deduplicate: bool,
    stacked: bool,
    format_: str,
) -> None:
    """Make a VM that starts as a copy of another, or of an image.

    They share the disk until one of them writes. An image that is not in the cache is pulled; one that is there is
    taken as it is, 'tart pull' looks for a newer one. A stopped VM of the new name is replaced.
    """
    del deduplicate
    from tartlet.image.format.reference import looks_remote, parse
    from tartlet.vm.stored.clone import clone
    from tartlet.vm.stored.model import checked_new_name

    checked_new_name(new_name)
    remote = looks_remote(source)
    if stacked and not remote:
        raise InvalidArgument(f'--stacked needs an image as its source, and "{source}" is a local name', "leave it out")
    if stacked:
        raise UserError(f"a stacked disk on {source} needs macOS 27 as the host", "clone without --stacked")
    if remote:
        made = _from_image(app, parse(source), new_name, insecure, concurrency, format_)
    else:
        made = clone(app.uncollected_store, source, new_name)
    _tell(made, format_)
    if not app.settings.no_auto_prune:
        _make_room(app, made, prune_limit * GIB)


def _from_image(app: App, name: ImageName, new_name: str, insecure: bool, concurrency: int, format_: str) -> Clone:
    """Clone an image, pulling it as often as somebody removes it before it is cloned."""
    from tartlet.image.cache.cached_image import ImageMissing
    from tartlet.vm.images.clone_image import clone_image

    for _ in range(_TRIES):
        if app.images.cached(name) is None:
            from tartlet.cli.pulling import pulled

            pulled(app, name, insecure, concurrency, format_)
        try:
            return clone_image(app.uncollected_store, name, new_name)
        except ImageMissing:
            continue
    raise ImageMissing(name)


def _make_room(app: App, made: Clone, limit: int) -> None:
    """The VM is there: that no room could be made for it is said, and no failure."""
    from tartlet.vm.images.room_to_grow import make_room_to_grow

    try:
        for one in make_room_to_grow(app.uncollected_store, made.source, limit):
            if one.removed:
                click.echo(f"removed {one.entry.name} {one.reason}", err=True)
    except UserError as exc:
        click.echo(f"failed to make room for the new VM to grow: {exc}", err=True)


def _tell(made: Clone, format_: str) -> None:
    from tartlet.disk.clone import CloneMethod

    disk = made.disk
    if disk.method is CloneMethod.COPY and disk.bytes_copied:
        click.echo(f"copied {human_size(disk.bytes_copied)} of disk, which could not be shared", err=True)
    if format_ == JSON:
        from tartlet.cli.transfer_display import print_object

        print_object({"result": "cloned", "name": made.vm.name, "method": str(disk.method)})
