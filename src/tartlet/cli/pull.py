"""`tart pull`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import cached_images
from tartlet.cli.formats import format_option
from tartlet.cli.numbers import AT_LEAST_ONE
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("pull", cls=Verb)
@click.argument("name", metavar="<remote-name>", help="Image to pull.", shell_complete=cached_images)
@click.option("--insecure", is_flag=True, help="Speak HTTP to the registry instead of HTTPS.")
@click.option("--concurrency", metavar="<n>", type=AT_LEAST_ONE, default=4, help="Parallel downloads.")
@click.option("--deduplicate", is_flag=True, hidden=True, help="Share what local images have; this is always done.")
@format_option
@click.pass_obj
def command(app: App, /, name: str, *, insecure: bool, concurrency: int, deduplicate: bool, format_: str) -> None:
    """Bring an image from a registry into the cache.

    What cached images and VMs have of it already is not downloaded. After an interruption the next pull goes on where
    this one was.
    """
    del deduplicate
    store = app.uncollected_store
    if store.folder(name).is_vm():
        click.echo(f'"{name}" is a local VM: there is nothing to pull')
        return

    from tartlet.cli.pulling import pulled
    from tartlet.image.format.reference import parse

    pulled(app, parse(name), insecure, concurrency, format_)
