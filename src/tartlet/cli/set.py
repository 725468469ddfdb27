"""`tart set`."""

from __future__ import annotations

from pathlib import Path

import click

from tartlet.cli.candidates import files, local_vms
from tartlet.cli.numbers import U16, U64
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.units import GB, MIB
from tartlet.vm.stored.model import VmState


@click.command("set", cls=Verb)
@click.argument("name", metavar="<name>", help="VM to change.", shell_complete=local_vms)
@click.option("--cpu", metavar="<count>", type=U16, help="Number of CPUs.")
@click.option("--memory", metavar="<megabytes>", type=U64, help="Size of the memory in MB.")
@click.option(
    "--display", metavar="<width>x<height>[pt|px]", help="Size of the screen. Its unit is forgotten when none is given."
)
@click.option(
    "--display-refit/--no-display-refit",
    default=None,
    help="Whether the guest's screen follows the size of its window.",
)
@click.option("--random-mac", is_flag=True, help="Give the VM a new, random MAC address; ends a suspension.")
@click.option("--random-serial", is_flag=True, help="Give a macOS VM a new serial number; on a Mac only.")
@click.option("--disk", metavar="<path>", shell_complete=files, help="Replace the disk by a copy of this file.")
@click.option(
    "--disk-size",
    metavar="<disk-size>",
    type=U16,
    help="Grow the disk to this many GB. The partitions inside are the guest's to grow.",
)
@click.pass_obj
def command(
    app: App,
    name: str,
    *,
    cpu: int | None,
    memory: int | None,
    display: str | None,
    display_refit: bool | None,
    random_mac: bool,
    random_serial: bool,  # noqa: ARG001 - a Linux host has no macOS VM that could run under a new one
    disk: str | None,
    disk_size: int | None,
) -> None:
    """Change the configuration of a VM.

    What is not named stays as it is. A running VM sees a larger disk and less memory at once, other changes when it is
    started the next time; those are named on standard error.
    """
    from tartlet.vm.stored.change import Changes, change

    changes = Changes(
        cpu=cpu,
        memory=None if memory is None else memory * MIB,
        display=display,
        display_refit=display_refit,
        random_mac=random_mac,
        disk=None if disk is None else Path(disk),
        disk_size=None if disk_size is None else disk_size * GB,
    )
    if app.store.open(name).state() is not VmState.RUNNING:
        change(app.store, name, changes)
        return

    import anyio

    from tartlet.vm.control.change_live import change_running

    for note in anyio.run(change_running, app.store, name, changes):
        click.echo(note, err=True)
