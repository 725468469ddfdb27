"""`tart create`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import files
from tartlet.cli.numbers import U16
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument
from tartlet.units import GB


@click.command("create", cls=Verb)
@click.argument("name", metavar="<name>", help="Name of the new VM.")
@click.option("--linux", is_flag=True, help="Create a Linux VM.")
@click.option(
    "--from-ipsw",
    metavar="<path>",
    shell_complete=files,
    help="Create a macOS VM from this restore image; on a Mac only.",
)
@click.option("--disk-size", metavar="<disk-size>", type=U16, default=50, help="Size of the disk in GB.")
@click.option(
    "--disk-format",
    metavar="<disk-format>",
    type=click.Choice(["raw", "qcow2", "asif"], case_sensitive=False),
    default="raw",
    help="How the disk is kept; asif on a Mac only.",
)
@click.pass_obj
def command(app: App, name: str, *, linux: bool, from_ipsw: str | None, disk_size: int, disk_format: str) -> None:
    """Create a VM.

    A stopped VM of that name is replaced.
    """
    from tartlet.disk.model import DiskFormat
    from tartlet.vm.create import create_empty
    from tartlet.vm.model import checked_new_name

    checked_new_name(name)
    if from_ipsw is not None:
        raise InvalidArgument("--from-ipsw needs a Mac with Apple silicon as the host", "create a guest with --linux")
    if not linux:
        raise InvalidArgument("it is not said what to create", "give --linux")
    if disk_format == DiskFormat.ASIF:
        raise InvalidArgument("the disk format asif needs macOS 26 or newer as the host", "choose raw or qcow2")
    create_empty(app.store, name, disk_size=disk_size * GB, disk_format=DiskFormat(disk_format))
