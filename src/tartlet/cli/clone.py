"""`tart clone`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import any_vms
from tartlet.cli.numbers import AT_LEAST_ONE, U64
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument, UserError
from tartlet.units import human_size


class ImagesNotYet(UserError):
    """The source is an image in a registry."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'"{name}" names an image in a registry, and this version clones local VMs only',
            "`tart list` shows the local VMs",
        )


@click.command("clone", cls=Verb)
@click.argument("source", metavar="<source>", help="VM to copy.", shell_complete=any_vms)
@click.argument("new_name", metavar="<new-name>", help="Name of the copy.")
@click.option("--insecure", is_flag=True, help="Pull over HTTP, if a pull is needed.")
@click.option("--concurrency", metavar="<n>", type=AT_LEAST_ONE, default=4, help="Parallel downloads of a pull.")
@click.option(
    "--prune-limit", metavar="<gib>", type=U64, default=100, help="How much may be removed to make room, in GiB."
)
@click.option("--deduplicate", is_flag=True, hidden=True, help="Pull onto a clone of the most similar image.")
@click.option("--stacked", is_flag=True, help="Stand on the disk of an image; on a Mac only.")
@click.pass_obj
def command(
    app: App,
    /,
    source: str,
    new_name: str,
    *,
    stacked: bool,
    **_for_pulls: object,
) -> None:
    """Make a VM that starts as a copy of another.

    They share the disk until one of them writes. A stopped VM of that name is replaced.
    """
    from tartlet.disk.clone import CloneMethod
    from tartlet.image.reference import looks_remote
    from tartlet.vm.clone import clone
    from tartlet.vm.model import checked_new_name

    checked_new_name(new_name)
    remote = looks_remote(source)
    if stacked and not remote:
        raise InvalidArgument(f'--stacked needs an image as its source, and "{source}" is a local name', "leave it out")
    if stacked:
        raise UserError(f"a stacked disk on {source} needs macOS 27 as the host", "clone without --stacked")
    if remote:
        raise ImagesNotYet(source)
    report = clone(app.uncollected_store, source, new_name).disk
    if report.method is CloneMethod.COPY and report.bytes_copied:
        click.echo(f"copied {human_size(report.bytes_copied)} of disk, which could not be shared", err=True)
