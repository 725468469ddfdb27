"""`tart get`."""

from __future__ import annotations

import click

from tartlet.cli.candidates import local_vms
from tartlet.cli.formats import JSON, format_option, whole_gigabytes
from tartlet.cli.output import json_text, table
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.units import GB, MIB, human_size
from tartlet.vm.listing import sizes
from tartlet.vm.model import VmConfig, VmState


@click.command("get", cls=Verb)
@click.argument("name", metavar="<name>", help="VM to show.", shell_complete=local_vms)
@format_option
@click.pass_obj
def command(app: App, name: str, format_: str) -> None:
    """Show the configuration of a VM."""
    vm = app.store.open(name)
    click.echo(shown(vm.config(), vm.state(), *sizes(vm), format_=format_))


def shown(config: VmConfig, state: VmState, disk: int, size: int, *, format_: str) -> str:
    """The whole output; `disk` is what the guest sees and `size` what is taken here, in bytes."""
    document: dict[str, object] = {
        "OS": config.os,
        "CPU": config.cpu_count,
        "Memory": config.memory_size // MIB,
        "Disk": whole_gigabytes(disk),
        "DiskFormat": config.disk_format,
        "Size": f"{size / GB:.3f}",
        "Display": str(config.display),
        "Running": state is VmState.RUNNING,
        "State": state,
    }
    if format_ == JSON:
        return json_text(document)
    readable = document | {"Disk": human_size(disk), "Size": human_size(size)}
    titles = [title for title in readable if title != "Running"]
    return table(titles, [[str(readable[title]) for title in titles]])
