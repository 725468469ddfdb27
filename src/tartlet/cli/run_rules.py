"""What options of `run` go together, with each other and with the VM. The original's rules, in its order."""

from __future__ import annotations

from dataclasses import replace

from tartlet.errors import InvalidArgument
from tartlet.network.policy.policy import Policy
from tartlet.vm.planning.options import RunOptions
from tartlet.vm.stored.model import VmConfig, VmState, host_arch

_OTHER_ARCH = {"amd64": "arm64", "arm64": "amd64"}


def agreed(options: RunOptions) -> RunOptions:
    """The options when they fit together, with what they imply. Raises InvalidArgument."""
    if options.vnc and options.vnc_experimental:
        raise InvalidArgument("--vnc and --vnc-experimental exclude each other", "choose one of them")
    options = replace(options, net_softnet=options.net_softnet or _implies_softnet(options))
    networks = [
        name
        for name, chosen in (
            ("--net-bridged", options.net_bridged),
            ("--net-softnet", options.net_softnet),
            ("--net-host", options.net_host),
        )
        if chosen
    ]
    if len(networks) > 1:
        raise InvalidArgument(f"{' and '.join(networks)} exclude each other", "a VM has one kind of network a run")
    if options.net_softnet:
        Policy.parse(options.net_softnet_allow, options.net_softnet_block, options.net_softnet_expose)
    if options.graphics and options.no_graphics:
        raise InvalidArgument("--graphics and --no-graphics exclude each other", "choose one of them")
    if options.web_port is not None and not options.web:
        raise InvalidArgument("--web-port needs --web", "`tart web` serves a running VM's page on a free port")
    elsewhere = options.vnc or options.vnc_experimental or options.web
    if options.capture_system_keys and (options.no_graphics or elsewhere):
        raise InvalidArgument(
            "--capture-system-keys needs a window of our own",
            "leave out --no-graphics, --vnc, --vnc-experimental and --web",
        )
    _refuse_mac_only(options)
    if options.dirs:
        from tartlet.share.arguments import synced

        synced(options.dirs)
    return options


def _implies_softnet(options: RunOptions) -> bool:
    return any(
        value is not None
        for value in (
            options.net_softnet_allow,
            options.net_softnet_block,
            options.net_softnet_expose,
            options.net_softnet_control_fd,
        )
    )


def _refuse_mac_only(options: RunOptions) -> None:
    asked = {"--recovery": options.recovery, "--rosetta": options.rosetta is not None}
    for name, given in asked.items():
        if given:
            raise InvalidArgument(f"{name} needs a Mac with Apple silicon as the host", f"leave out {name}")


def agreed_with_host(options: RunOptions) -> RunOptions:
    """The options when this host can do what they ask. Raises InvalidArgument, BadControlDescriptor, AssetsMissing."""
    if options.net_bridged:
        from tartlet.network.cards import interfaces

        for name in options.net_bridged:
            interfaces.find(name)
    if options.net_softnet_control_fd is not None:
        from tartlet.network.rules import control

        control.ensure_inherited(options.net_softnet_control_fd)
    if options.nested:
        from tartlet.hypervisor import accel

        obstacle = accel.nested_obstacle(accel.choose(host_arch()))
        if obstacle is not None:
            raise InvalidArgument(f"--nested cannot be had on this host: {obstacle}", "leave out --nested")
    if options.web:
        from tartlet.web import assets

        assets.found()
    return options


def agreed_with_vm(options: RunOptions, config: VmConfig, state: VmState) -> RunOptions:
    """The options when they fit the VM, with what its state implies. Raises InvalidArgument.

    Unlike the original's, a Linux guest can be suspended too.
    """
    options = replace(options, suspendable=options.suspendable or state is VmState.SUSPENDED)
    missing = [
        name
        for name, chosen in (
            ("--no-trackpad", options.no_trackpad),
            ("--no-keyboard", options.no_keyboard),
            ("--no-pointer", options.no_pointer),
        )
        if chosen
    ]
    if options.suspendable and missing:
        raise InvalidArgument(
            f"{' and '.join(missing)} cannot go with a VM that can be suspended", f"leave out {' and '.join(missing)}"
        )
    if options.suspendable and options.dirs:
        _refuse_served(options.dirs, state)
    if options.no_trackpad and config.os != "darwin":
        raise InvalidArgument("--no-trackpad is for macOS guests only", "--no-pointer takes the pointing device away")
    if options.provisioning_options is not None:
        raise InvalidArgument("--provisioning-opts needs a host with macOS 27 or newer", "leave it out")
    _refuse_foreign_installers(options, config.arch)
    return options


def _refuse_served(dirs: tuple[str, ...], state: VmState) -> None:
    from tartlet.share.arguments import grouped

    if grouped(dirs):
        raise InvalidArgument(
            "--dir cannot go with a VM that can be suspended: QEMU cannot save shared folders", _unsaved(state)
        )


def _unsaved(state: VmState) -> str:
    if state is VmState.SUSPENDED:
        return "share a synchronised copy with --dir=NAME:PATH:sync, or drop the saved state first: tart stop"
    return "share a synchronised copy with --dir=NAME:PATH:sync, or leave out --suspendable or --dir"


def _refuse_foreign_installers(options: RunOptions, arch: str) -> None:
    ending = f"-{_OTHER_ARCH.get(arch, '')}.iso"
    for disk in options.disks:
        if any(piece.endswith(ending) for piece in disk.split(":")):
            raise InvalidArgument(
                f"{disk} is an installer for {_OTHER_ARCH[arch]}, and the VM is {arch}",
                f"look for the same file with -{arch}.iso",
            )
