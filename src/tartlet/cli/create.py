"""`tart create`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tartlet.cli.candidates import files
from tartlet.cli.numbers import U16
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument
from tartlet.units import GB

if TYPE_CHECKING:
    from tartlet.vm.create import FirstBoot


@click.command("create", cls=Verb)
@click.argument("name", metavar="<name>", help="Name of the new VM.")
@click.option("--linux", is_flag=True, help="Create a Linux VM; without anything more, with an empty disk.")
@click.option(
    "--from-distro",
    "distro",
    metavar="<distro>",
    help="Build the guest from packages: debian:bookworm, debian:trixie, ubuntu:noble and others. Built once and kept.",
)
@click.option(
    "--arch",
    metavar="<arch>",
    type=click.Choice(["amd64", "arm64"]),
    help="Processor of the VM; this machine's own if not given.",
)
@click.option(
    "--user-data", metavar="<path>", shell_complete=files, help="cloud-init user data for the guest's first boot."
)
@click.option(
    "--ssh-key", metavar="<path>", shell_complete=files, help="Public SSH keys that may log in, for the first boot."
)
@click.option(
    "--from-ipsw",
    metavar="<path>",
    shell_complete=files,
    help="Create a macOS VM from this restore image; on a Mac only.",
)
@click.option("--disk-size", metavar="<disk-size>", type=U16, help="Size of the disk in GB; 50 if not given.")
@click.option(
    "--disk-format",
    metavar="<disk-format>",
    type=click.Choice(["raw", "qcow2", "asif"], case_sensitive=False),
    default="raw",
    help="How an empty disk is kept; asif on a Mac only.",
)
@click.pass_obj
def command(
    app: App,
    name: str,
    *,
    linux: bool,
    distro: str | None,
    arch: str | None,
    user_data: str | None,
    ssh_key: str | None,
    from_ipsw: str | None,
    disk_size: int | None,
    disk_format: str,
) -> None:
    """Create a VM.

    A stopped VM of that name is replaced. Guests made of packages have the user admin with the password admin.
    """
    from tartlet.disk.model import DiskFormat
    from tartlet.vm.create import DEFAULT_DISK_SIZE, create_empty
    from tartlet.vm.model import checked_new_name

    checked_new_name(name)
    _check_kind(linux=linux, from_ipsw=from_ipsw)
    if disk_format == DiskFormat.ASIF:
        raise InvalidArgument("the disk format asif needs macOS 26 or newer as the host", "choose raw or qcow2")
    size = DEFAULT_DISK_SIZE if disk_size is None else disk_size * GB
    first_boot = _first_boot(user_data, ssh_key)
    if distro is not None:
        if disk_format != DiskFormat.RAW:
            raise InvalidArgument("--disk-format is for empty disks", "leave it out with --from-distro")
        _from_distro(app, name, distro, size, arch, first_boot)
        return
    if first_boot:
        raise InvalidArgument(
            "--user-data and --ssh-key need a guest that reads them", "add --from-distro, say debian:bookworm"
        )
    create_empty(app.store, name, disk_size=size, disk_format=DiskFormat(disk_format), arch=arch)


def _check_kind(*, linux: bool, from_ipsw: str | None) -> None:
    if from_ipsw is not None:
        raise InvalidArgument("--from-ipsw needs a Mac with Apple silicon as the host", "create a guest with --linux")
    if not linux:
        raise InvalidArgument("it is not said what to create", "give --linux")


def _first_boot(user_data: str | None, ssh_key: str | None) -> FirstBoot:
    """Read before anything is made. Raises FileTrouble, InvalidArgument."""
    from tartlet.vm.create import FirstBoot

    if user_data is None and ssh_key is None:
        return FirstBoot()

    from tartlet.build.user_data import read_ssh_keys, read_user_data

    return FirstBoot(
        user_data=None if user_data is None else read_user_data(Path(user_data)),
        ssh_keys=() if ssh_key is None else read_ssh_keys(Path(ssh_key)),
    )


def _from_distro(app: App, name: str, distro: str, size: int, arch: str | None, first_boot: FirstBoot) -> None:
    from functools import partial

    import anyio

    from tartlet.cli.progress import ProgressLines
    from tartlet.vm.create import create_from_distro

    lines = ProgressLines(plain=app.settings.plain_progress)
    making = partial(create_from_distro, report=lines.report, disk_size=size, arch=arch, first_boot=first_boot)
    anyio.run(making, app.store, name, distro)
