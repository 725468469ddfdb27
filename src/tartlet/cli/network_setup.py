"""`tart network setup` and `tart network remove`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from tartlet.cli.words import Verb

if TYPE_CHECKING:
    from tartlet.network.install.setup import SystemChange

_UNATTENDED = "give --yes to do it without being asked"


@click.command("setup", cls=Verb)
@click.option("--yes", "-y", is_flag=True, help="Do it without asking.")
@click.option("--sudo", is_flag=True, help="Let the helper be started by sudo, also where systemd could do it.")
@click.option(
    "--user",
    "users",
    metavar="<name>",
    multiple=True,
    help="Who may use it. Can be given several times; without it, whoever called sudo.",
)
def setup(*, yes: bool, sudo: bool, users: tuple[str, ...]) -> None:
    """Install the helper that puts VMs on this host's own network.

    It shows what it is about to do and asks. Afterwards VMs of members of the group tart have a bridge of the host's
    network: they are faster there, and the host reaches each by its own address. The helper has three rights and
    no more: to change interfaces and packet filters, to speak DHCP, and to listen on low ports.
    """
    import anyio

    from tartlet.network.install.setup import network_setup

    async def work() -> SystemChange | None:
        return await network_setup(users=users or _caller(), sudo=sudo, agreed=lambda change: _agreed(change, yes=yes))

    _conclude(anyio.run(work), "Everything is in place already.")


@click.command("remove", cls=Verb)
@click.option("--yes", "-y", is_flag=True, help="Do it without asking.")
def remove(*, yes: bool) -> None:
    """Take away what tart network setup installed.

    Not while a VM runs in that network. Settings that were changed stay.
    """
    import anyio

    from tartlet.network.install.setup import network_remove

    async def work() -> SystemChange | None:
        return await network_remove(agreed=lambda change: _agreed(change, yes=yes))

    _conclude(anyio.run(work), "There is nothing to remove.")


def _caller() -> tuple[str, ...]:
    """The person behind sudo."""
    name = os.environ.get("SUDO_USER", "")
    return (name,) if name not in ("", "root") else ()


def _agreed(change: SystemChange, *, yes: bool) -> bool:
    from tartlet.cli.terminal import asked

    click.echo("This host will be changed:")
    for step in change.steps:
        click.echo(f"  {step}")
    for note in change.notes:
        click.echo(note, err=True)
    return yes or asked("Go on? [y/N] ", _UNATTENDED).strip().lower() in ("y", "yes")


def _conclude(change: SystemChange | None, nothing_to_do: str) -> None:
    if change is None:
        click.echo("Nothing was changed.", err=True)
        raise click.exceptions.Exit(1)
    click.echo("Done." if change.steps else nothing_to_do)
