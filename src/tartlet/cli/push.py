"""`tart push`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from tartlet.cli.candidates import any_vms
from tartlet.cli.formats import format_option
from tartlet.cli.numbers import U64
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.units import human_size

if TYPE_CHECKING:
    from tartlet.cli.transfer_display import TransferDisplay
    from tartlet.image.push.push import Pushed

_MB = 1_000_000


@click.command("push", cls=Verb)
@click.argument("source", metavar="<local-name>", help="VM, or image in the cache, to push.", shell_complete=any_vms)
@click.argument("names", metavar="<remote-names>", nargs=-1, required=True, help="Names that the image gets.")
@click.option("--insecure", is_flag=True, help="Speak HTTP instead of HTTPS.")
@click.option(
    "--concurrency", metavar="<concurrency>", type=U64, default=4, help="Pieces of the disk pushed at the same time."
)
@click.option(
    "--chunk-size",
    metavar="<mb>",
    type=U64,
    default=0,
    help="Send blobs in requests of this many MB; 0 for one request each. Amazon takes at least 5, GitHub less than 4.",
)
@click.option(
    "--label", "labels", metavar="<key=value>", multiple=True, help="Label for the image. Can be given several times."
)
@click.option("--populate-cache", is_flag=True, help="Have the image in the local cache too.")
@format_option
@click.pass_obj
def command(
    app: App,
    /,
    source: str,
    names: tuple[str, ...],
    *,
    insecure: bool,
    concurrency: int,
    chunk_size: int,
    labels: tuple[str, ...],
    populate_cache: bool,
    format_: str,
) -> None:
    """Push a VM to a registry.

    Only what the registry does not have yet is sent.
    """
    import anyio

    from tartlet.cli.transfer_display import shown_transfer, while_read
    from tartlet.host.heap import tune_memory
    from tartlet.image.format.manifest import parse_labels
    from tartlet.image.format.reference import looks_remote, parse
    from tartlet.vm.images.push import PushOptions, push

    options = PushOptions(
        insecure=insecure,
        at_once=max(1, concurrency),
        chunk_size=chunk_size * _MB,
        labels=parse_labels(labels),
        populate_cache=populate_cache,
    )
    targets = [parse(name) for name in names]
    if labels and looks_remote(source):
        click.echo("--label changes nothing: an image of a registry keeps the labels that it has", err=True)
    tune_memory()

    async def work(display: TransferDisplay) -> Pushed:
        with while_read(display) as report:
            return await push(app.store, source, targets, options, report=report)

    with _said_when_interrupted(), shown_transfer(plain=app.settings.plain_progress, format_=format_) as display:
        pushed = anyio.run(work, display)
        told = f"pushed {pushed.digest}: {human_size(pushed.sent)} sent, {human_size(pushed.kept)} of the disk reused"
        display.conclude(told, "pushed", digest=pushed.digest, sent=pushed.sent, reused=pushed.kept)


@contextmanager
def _said_when_interrupted() -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo("interrupted: what the registry has received stays there, the next push goes on behind it", err=True)
        raise
