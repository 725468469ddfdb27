"""`tart logs`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from tartlet.cli.candidates import local_vms
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import FileTrouble, InvalidArgument, UserError
from tartlet.host.bounded_log import first_byte

_PIECE = 65536
_LOOK_EVERY = 0.2
"""Seconds between looks for more."""


@click.command("logs", cls=Verb)
@click.argument("name", metavar="<name>", help="VM to show the logs of.", shell_complete=local_vms)
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the VM ends.")
@click.option("--serial", is_flag=True, help="What the guest wrote to its serial console.")
@click.option("--qemu", is_flag=True, help="What QEMU printed.")
@click.pass_obj
def command(app: App, name: str, *, follow: bool, serial: bool, qemu: bool) -> None:
    """Show the logs of a VM.

    Without an option: what 'tart run' itself noted about the present run, or the last one.
    """
    if serial and qemu:
        raise InvalidArgument("--serial and --qemu exclude each other", "choose one of the two logs")
    vm = app.store.find(name)
    log = vm.serial_log_path if serial else vm.qemu_log_path if qemu else vm.run_log_path
    _shown(name, log, running=lambda: follow and bool(vm.supervisor()))


def _shown(name: str, log: Path, running: Callable[[], bool]) -> None:
    """Print `log` to its end, and what comes after for as long as `running()` says so."""
    try:
        source = log.open("rb")
    except FileNotFoundError:
        raise UserError(f'VM "{name}" has no such log yet', f"logs are made by a run: tart run {name}") from None
    except OSError as exc:
        raise FileTrouble("cannot read the log", log, exc) from exc
    with source:
        source.seek(first_byte(source.fileno()))
        while True:
            # Asked before reading: what was written before the end is not missed.
            more_to_come = running()
            while piece := source.read(_PIECE):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            if not more_to_come:
                return
            time.sleep(_LOOK_EVERY)
