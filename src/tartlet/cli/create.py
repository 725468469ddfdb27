"""`tart create`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tartlet.cli.candidates import files
from tartlet.cli.numbers import U16
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.disk.model import DiskFormat
from tartlet.errors import InvalidArgument
from tartlet.units import GB

if TYPE_CHECKING:
    from tartlet.vm.stored.create import FirstBoot

DEFAULT_SIZE = 50
"""Gigabytes of a disk whose size nobody asked for."""


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
    "--from-image",
    "image",
    metavar="<path|url>",
    shell_complete=files,
    help="Take this disk image: qcow2, raw, vmdk or vdi, also packed by gzip, xz or zstd.",
)
@click.option("--checksum", metavar="<checksum>", help="What the image must be: sha256:<digits> or sha512:<digits>.")
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
    /,
    name: str,
    *,
    linux: bool,
    distro: str | None,
    image: str | None,
    checksum: str | None,
    arch: str | None,
    user_data: str | None,
    ssh_key: str | None,
    from_ipsw: str | None,
    disk_size: int | None,
    disk_format: str,
) -> None:
    """Create a VM.

    A stopped VM of that name is replaced. The guests of --from-distro and --from-image have the user admin with the
    password admin.
    """
    from tartlet.vm.stored.create import create_empty
    from tartlet.vm.stored.model import checked_new_name

    checked_new_name(name)
    _check_kind(linux=linux, from_ipsw=from_ipsw, disk_format=disk_format)
    size = None if disk_size is None else disk_size * GB
    if distro is None and image is None:
        _check_empty(checksum=checksum, first_boot=user_data or ssh_key)
        create_empty(
            app.store,
            name,
            disk_size=DEFAULT_SIZE * GB if size is None else size,
            disk_format=DiskFormat(disk_format),
            arch=arch,
        )
        return
    _check_filled(distro=distro, image=image, checksum=checksum, disk_format=disk_format)
    _create_filled(
        app,
        name,
        distro=distro,
        image=image,
        checksum=checksum,
        disk_size=size,
        arch=arch,
        first_boot=_first_boot(user_data, ssh_key),
    )


def _check_kind(*, linux: bool, from_ipsw: str | None, disk_format: str) -> None:
    if from_ipsw is not None:
        raise InvalidArgument("--from-ipsw needs a Mac with Apple silicon as the host", "create a guest with --linux")
    if not linux:
        raise InvalidArgument("it is not said what to create", "give --linux")
    if disk_format == DiskFormat.ASIF:
        raise InvalidArgument("the disk format asif needs macOS 26 or newer as the host", "choose raw or qcow2")


def _check_empty(*, checksum: str | None, first_boot: str | None) -> None:
    if checksum is not None:
        raise InvalidArgument("--checksum is for an image", "give --from-image too, or leave it out")
    if first_boot is not None:
        raise InvalidArgument(
            "--user-data and --ssh-key need a guest that reads them", "add --from-distro, say debian:bookworm"
        )


def _check_filled(*, distro: str | None, image: str | None, checksum: str | None, disk_format: str) -> None:
    if distro is not None and image is not None:
        raise InvalidArgument("--from-distro and --from-image exclude each other", "choose one of them")
    if distro is not None and checksum is not None:
        raise InvalidArgument("--checksum is for an image", "leave it out with --from-distro")
    if disk_format != DiskFormat.RAW:
        raise InvalidArgument("--disk-format is for empty disks", "leave it out with --from-distro and --from-image")


def _first_boot(user_data: str | None, ssh_key: str | None) -> FirstBoot:
    """Read before anything is made. Raises FileTrouble, InvalidArgument."""
    from tartlet.build.user_data import read_ssh_keys, read_user_data
    from tartlet.vm.stored.create import FirstBoot

    return FirstBoot(
        user_data=None if user_data is None else read_user_data(Path(user_data)),
        ssh_keys=() if ssh_key is None else read_ssh_keys(Path(ssh_key)),
    )


def _create_filled(
    app: App,
    name: str,
    *,
    distro: str | None,
    image: str | None,
    checksum: str | None,
    disk_size: int | None,
    arch: str | None,
    first_boot: FirstBoot,
) -> None:
    from functools import partial

    import anyio

    from tartlet.build.checksum import Checksum
    from tartlet.cli.progress import ProgressLines
    from tartlet.vm.stored.create import create_from_distro, create_from_image

    report = ProgressLines(plain=app.settings.plain_progress).report
    expected = None if checksum is None else Checksum.parse(checksum)
    from_distro = partial(create_from_distro, report=report, disk_size=disk_size, arch=arch, first_boot=first_boot)
    from_image = partial(
        create_from_image, report=report, checksum=expected, disk_size=disk_size, arch=arch, first_boot=first_boot
    )
    if distro is not None:
        anyio.run(from_distro, app.store, name, distro)
    elif image is not None:
        anyio.run(from_image, app.store, name, image)
