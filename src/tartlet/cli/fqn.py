"""`tart fqn`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import any_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import UserError


class NotCached(UserError):
    """A tag that leads to no image in the cache."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not in the cache, so its digest is not known", f"pull it first: tart pull {name}")


@click.command("fqn", cls=Verb)
@click.argument("name", metavar="<name>", help="Image to look up in the cache.", shell_complete=any_vms)
@click.pass_obj
def command(app: App, name: str) -> None:
    """Print the name of an image by its digest.

    The name of a local VM is printed as it is.
    """
    from tartlet.image.format.reference import looks_remote, parse

    app.collect_garbage()
    if looks_remote(name) and not (asked := parse(name)).digest:
        image = app.images.cached(asked)
        if image is None:
            raise NotCached(name)
        name = str(image.name)
    click.echo(name)
