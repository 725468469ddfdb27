"""A pull as `tart pull` and `tart clone` show it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import anyio
import click

from tartlet.cli.transfer_display import shown_transfer, while_read
from tartlet.cli.wiring import App
from tartlet.host.heap import tune_memory
from tartlet.image.format.reference import ImageName
from tartlet.image.pull.pull import Pulled
from tartlet.units import human_size
from tartlet.vm.images.pull import pull


def pulled(app: App, name: ImageName, insecure: bool, at_once: int, format_: str) -> None:
    """Pull an image, show how far it is and tell what it came to. Raises as `tartlet.vm.images.pull.pull` does."""
    tune_memory()
    with _said_when_interrupted(name):
        anyio.run(_pulled, app, name, insecure, at_once, format_)


async def _pulled(app: App, name: ImageName, insecure: bool, at_once: int, format_: str) -> None:
    shown = shown_transfer(plain=app.settings.plain_progress, format_=format_)
    with shown as display, while_read(display) as report:
        done = await pull(
            app.uncollected_store,
            name,
            insecure=insecure,
            at_once=at_once,
            auto_prune=not app.settings.no_auto_prune,
            report=report,
        )
        display.conclude(
            _sentence(name, done),
            "cached" if done.was_cached else "pulled",
            name=str(name),
            digest=done.image.digest,
            received=done.received,
            reused=done.reused,
        )


def _sentence(name: ImageName, done: Pulled) -> str:
    if done.was_cached:
        return f"{name} is in the cache already"
    return f"pulled {name}: {human_size(done.received)} received, {human_size(done.reused)} were here already"


@contextmanager
def _said_when_interrupted(name: ImageName) -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"interrupted: what came so far is kept for a day, the next pull of {name} goes on there", err=True)
        raise
