"""`tart prune`."""

from __future__ import annotations

import click

from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument


@click.command("prune", cls=Verb)
@click.option("--gc", "collect", is_flag=True, help="Remove left-overs of ended commands that nothing uses.")
@click.pass_obj
def command(app: App, *, collect: bool) -> None:
    """Remove what nothing uses any more."""
    if not collect:
        raise InvalidArgument("there is nothing to do without a criterion", "give --gc")
    app.collect_garbage()
