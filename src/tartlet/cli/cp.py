"""`tart cp`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from tartlet.cli.candidates import files
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument
from tartlet.vm.stored.model import VmState
from tartlet.vm.stored.store import VmNotRunning


@click.command("cp", cls=Verb)
@click.option("--user", metavar="<user>", default="", help="User of the guest to read or write as.")
@click.argument("source", metavar="<source>", help="What to copy: a path, or <vm>:<path>.", shell_complete=files)
@click.argument("target", metavar="<target>", help="Where to: <vm>:<path>, or a path.", shell_complete=files)
@click.pass_obj
def command(app: App, source: str, target: str, *, user: str) -> None:
    """Copy files and folders between this machine and a running VM.

    One of the two is a path inside a VM, written <vm>:<path> and told from / or from the user's home. Folders are
    copied with all in them, into the target when that is a folder. It needs a guest agent inside the
    VM, and no network.
    """
    inside, outside = _inside(source), _inside(target)
    if (inside is None) == (outside is None):
        raise InvalidArgument(
            "one side has to be in a VM, the other on this machine",
            "write <vm>:<path> for a path in a VM, and ./a:b for a file of this machine with a colon in its name",
        )
    name, path = inside or outside or ("", "")
    vm = app.store.open(name)
    if vm.state() is not VmState.RUNNING:
        raise VmNotRunning(name)

    import anyio

    from tartlet.guest.client.copying import copy_from, copy_into
    from tartlet.guest.rpc.channel import connect

    async def work() -> None:
        async with connect(vm.path) as channel:
            if inside is None:
                await copy_into(channel, Path(source), path, user=user)
            else:
                await copy_from(channel, path, Path(target), user=user)

    anyio.run(work)


def _inside(word: str) -> tuple[str, str] | None:
    """VM and path, when the word names a path inside a VM."""
    name, colon, path = word.partition(":")
    return (name, path) if colon and name and os.sep not in name else None
