"""`tart prune`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tartlet.cli.formats import JSON, format_option
from tartlet.cli.numbers import U64
from tartlet.cli.output import json_text, table
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument
from tartlet.units import GIB, human_age, human_size

if TYPE_CHECKING:
    from tartlet.image.cache.prune import Pruned

CACHES, VMS = "caches", "vms"
_TITLES = ("Kind", "Name", "Frees", "Accessed", "Why")


@click.command("prune", cls=Verb)
@click.option(
    "--entries",
    metavar="<entries>",
    type=click.Choice([CACHES, VMS]),
    default=CACHES,
    help="What may go: what can be fetched or built again, or local VMs that do not run.",
)
@click.option("--older-than", metavar="<days>", type=U64, help="Remove what was not used for so many days; 0 is all.")
@click.option(
    "--space-budget", metavar="<gib>", type=U64, help="Keep the most recently used that fit into so many GiB."
)
@click.option("--cache-budget", metavar="<gib>", type=U64, hidden=True, help="The old name of --space-budget.")
@click.option("--gc", "unused", is_flag=True, help="Remove images that no name leads to, and what ended commands left.")
@click.option("--dry-run", is_flag=True, help="Remove nothing, and show what would go and why.")
@format_option
@click.pass_obj
def command(
    app: App,
    *,
    entries: str,
    older_than: int | None,
    space_budget: int | None,
    cache_budget: int | None,
    unused: bool,
    dry_run: bool,
    format_: str,
) -> None:
    """Remove what can be done without.

    By age, to a budget, or both: age first. What is running or in use by another process stays, and so does the disk
    that a VM stands on.
    """
    if cache_budget is not None:
        if space_budget is not None:
            raise InvalidArgument("--cache-budget is the old name of --space-budget", "give one of them")
        click.echo("--cache-budget is deprecated: use --space-budget", err=True)
        space_budget = cache_budget
    if older_than is None and space_budget is None and not unused:
        raise InvalidArgument(
            "there is nothing to do without a criterion", "give --older-than, --space-budget, --gc or several of them"
        )

    from tartlet.vm.images.prune import prune

    decisions = prune(
        app.uncollected_store if dry_run else app.store,
        vms=entries == VMS,
        unused=unused,
        older_than=older_than,
        budget=None if space_budget is None else space_budget * GIB,
        dry_run=dry_run,
    )
    if format_ == JSON:
        click.echo(json_text([_document(one) for one in decisions]))
    elif dry_run:
        _show(decisions)
    else:
        _say_kept(decisions)


def _show(decisions: list[Pruned]) -> None:
    now = time.time()
    rows = [_cells(one, now) for one in decisions if one.removed]
    if rows:
        click.echo(table(_TITLES, rows))
    freed = human_size(sum(one.freed for one in decisions))
    click.echo(f"{len(rows)} would be removed, which gives back {freed}", err=True)
    _say_kept(decisions)


def _say_kept(decisions: list[Pruned]) -> None:
    for one in decisions:
        if not one.removed:
            click.echo(f"{one.entry.name} stays: {one.reason}", err=True)


def _cells(one: Pruned, now: float) -> tuple[str, ...]:
    return one.entry.kind, one.entry.name, human_size(one.freed), human_age(now - one.entry.accessed), one.reason


def _document(one: Pruned) -> dict[str, object]:
    return {
        "Kind": one.entry.kind,
        "Name": one.entry.name,
        "Path": str(one.entry.path),
        "Accessed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.entry.accessed)),
        "Freed": one.freed,
        "Removed": one.removed,
        "Reason": one.reason,
    }
