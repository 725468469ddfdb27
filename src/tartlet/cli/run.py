"""`tart run`: the words. What they set going is `tartlet.vm.running.supervisor`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from tartlet.cli.candidates import directories, files, interfaces, local_vms
from tartlet.cli.numbers import SECONDS
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument, UserError
from tartlet.vm.stored.folder import VmIncomplete
from tartlet.vm.stored.store import VmMissing

if TYPE_CHECKING:
    from tartlet.vm.control.detach import Background
    from tartlet.vm.planning.options import RunOptions
    from tartlet.vm.stored.folder import VmFolder

_Function = TypeVar("_Function", bound=Callable[..., object])


def _flag(name: str, text: str, *, hidden: bool = False) -> Callable[[_Function], _Function]:
    return click.option(name, is_flag=True, help=text, hidden=hidden)


def _interfaces_listed(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ARG001
    """Print the interfaces and end where they are asked for; no VM has to be named then."""
    if "list" in given and not ctx.resilient_parsing:
        from tartlet.network.cards.interfaces import usable

        for interface in usable():
            click.echo(interface.name)
        ctx.exit()
    return given


@click.command("run", cls=Verb)
@click.argument("name", metavar="<name>", help="VM to run.", shell_complete=local_vms)
@_flag("--no-graphics", "Open no window.")
@_flag("--graphics", "Open a window even with VNC or --web.", hidden=True)
@_flag("--serial", "Give the guest's serial port a new terminal, and print its path.")
@click.option(
    "--serial-path",
    metavar="<path>",
    shell_complete=files,
    help="Use this terminal device as the guest's serial port.",
)
@_flag("--no-audio", "Play and record no sound.")
@_flag("--no-clipboard", "Do not share the clipboard.")
@_flag("--recovery", "Boot the recovery system; on a Mac only.")
@_flag("--vnc", "Open the screen sharing of the guest itself.")
@_flag("--vnc-experimental", "Serve the screen by VNC on 127.0.0.1, and open it.")
@_flag("--web", "Serve the screen and the serial terminal as a web page on 127.0.0.1, and open it.")
@click.option(
    "--web-port",
    metavar="<port>",
    type=click.IntRange(1, 65535),
    help="The port of that page. Without it: a free one.",
)
@click.option(
    "--disk",
    "disks",
    metavar="<path[:options]>",
    multiple=True,
    shell_complete=files,
    help="Attach a disk: an image file, a block device, nbd://host:port/name, or the name of a cached "
    "image, of whose disk the VM gets a private copy. Options, separated by commas: ro, "
    "sync=none|fsync|full, caching=automatic|cached|uncached. Can be given several times.",
)
@click.option(
    "--root-disk-opts",
    "root_disk_options",
    metavar="<options>",
    default="",
    help="The same options for the VM's own disk.",
)
@click.option("--rosetta", metavar="<tag>", help="Share Rosetta with a Linux guest; on a Mac only.")
@click.option(
    "--dir",
    "dirs",
    metavar="<[name:]path[:options]>",
    multiple=True,
    shell_complete=directories,
    help="Share a folder with the guest. Options, separated by commas: ro, tag=<tag>, and sync for a copy in the guest "
    "that is brought back at the end. Can be given several times.",
)
@_flag("--nested", "Let the guest run VMs of its own.")
@click.option(
    "--net-bridged",
    metavar="<interface>",
    multiple=True,
    is_eager=True,
    callback=_interfaces_listed,
    shell_complete=interfaces,
    help="Put the VM on the network of this interface of the host, like any machine there. Given several times, the VM "
    "has a card on each. The word list prints the interfaces, and no VM is run.",
)
@_flag("--net-softnet", "Isolate the VM from other VMs and from private networks.")
@click.option("--net-softnet-allow", metavar="<cidr,...>", help="Destinations that the isolated VM may reach.")
@click.option("--net-softnet-block", metavar="<cidr,...>", help="Destinations that it may not.")
@click.option("--net-softnet-expose", metavar="<ext:int,...>", help="TCP ports of the host that lead to ports of it.")
@click.option(
    "--net-softnet-control-fd",
    metavar="<fd>",
    type=click.IntRange(-(2**31), 2**31 - 1),
    help="An inherited socket through which the rules can be changed.",
)
@_flag("--net-host", "Let the VM reach the host only.")
@_flag("--suspendable", "Use only devices whose state can be saved.")
@_flag("--capture-system-keys", "Pass the desktop's own key combinations on to the guest.")
@_flag("--no-trackpad", "Give a macOS guest no trackpad.")
@_flag("--no-pointer", "Give the guest no pointing device.")
@_flag("--no-keyboard", "Give the guest no keyboard.")
@click.option(
    "--provisioning-opts",
    "provisioning_options",
    metavar="<key=value,...>",
    help="Set up a macOS guest at its first boot; on a Mac only.",
)
@_flag("--detach", "Return when the VM runs; it goes on in the background.")
@_flag("--wait-ready", "With --detach: return when the guest's agent answers.")
@click.option(
    "--wait-ready-timeout",
    metavar="<seconds>",
    type=SECONDS,
    help="How long --wait-ready waits, 300 unless given; then exit 124. The VM runs on.",
)
@click.pass_obj
def command(
    app: App, /, name: str, *, detach: bool, wait_ready: bool, wait_ready_timeout: int | None, **given: object
) -> None:
    """Run a VM and stay until it ends.

    Ctrl+C, or 'tart stop', cuts its power. The exit code is 0 however the VM ended; 'tart wait' tells how.
    """
    from tartlet.cli import run_rules
    from tartlet.vm.planning.options import RunOptions

    if wait_ready and not detach:
        raise InvalidArgument("--wait-ready needs --detach", "without it the command stays until the VM ends")
    if wait_ready_timeout is not None and not wait_ready:
        raise InvalidArgument("--wait-ready-timeout needs --wait-ready", "add it, or leave the limit out")
    asked = RunOptions(**cast("dict[str, Any]", given), plain_output=app.settings.plain_progress)
    options = run_rules.agreed_with_host(run_rules.agreed(asked))
    vm = _opened(app, name)
    options = run_rules.agreed_with_vm(options, vm.config(), vm.state())
    background = _background(vm, wait_ready, wait_ready_timeout) if detach else None
    _supervise(app, vm, options, background)


def _supervise(app: App, vm: VmFolder, options: RunOptions, background: Background | None) -> None:
    import anyio

    from tartlet.vm.running.supervisor import Told, supervise

    told = Told(announce=_tell)
    if background is not None:
        told = replace(told, on_running=background.running, on_ready=background.answers)
    anyio.run(supervise, app.store, vm.name, options, told)


def _opened(app: App, name: str) -> VmFolder:
    """The original opens the VM while it still looks at its arguments, where every error counts as a plain 1."""
    try:
        return app.store.open(name)
    except (VmMissing, VmIncomplete) as exc:
        raise UserError(f"Error: {exc}", exc.hint) from exc


def _tell(line: str) -> None:
    """Print a line. That nobody reads any more is no reason for a VM to end."""
    try:
        click.echo(line)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends


def _background(vm: VmFolder, wait_ready: bool, limit: int | None) -> Background:
    """Fork, before anything here has threads or an event loop; only the child returns."""
    from tartlet.vm.control.detach import READY_TIMEOUT, into_background

    return into_background(vm, until_agent=wait_ready, patience=limit or READY_TIMEOUT)
