"""From a configuration and one run's options to a machine: what is claimed for the run and what QEMU is told."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module

from tartlet.build.seed import valid_hostname
from tartlet.console import audio, display, serial, vnc
from tartlet.console.opener import has_desktop
from tartlet.errors import FileTrouble
from tartlet.guest.own_agent import tart_agent
from tartlet.guest.own_agent.machine_identity import MachineIdentity
from tartlet.host.memory import memory_file
from tartlet.host.paths import Home
from tartlet.hypervisor import accel, firmware, nvram, qemu, state_file
from tartlet.hypervisor.accel import Accelerator
from tartlet.hypervisor.devices import (
    GUEST_AGENT_PORT,
    Balloon,
    Device,
    Entropy,
    Graphics,
    Inputs,
    Port,
    Ports,
    Slot,
    Sound,
)
from tartlet.hypervisor.disk_options import parse_disk_option
from tartlet.hypervisor.machine import Machine, Ram, machine_type
from tartlet.hypervisor.state_file import Fingerprint
from tartlet.network.attachment import Attachment
from tartlet.share.serving import SharedFolders
from tartlet.version import PRINTED_VERSION
from tartlet.vm.planning.disks import disks, runnable_disk
from tartlet.vm.planning.image_disk import names_image
from tartlet.vm.planning.inherited import Inherited
from tartlet.vm.planning.network import cards, plugged_in
from tartlet.vm.planning.options import RunOptions
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.machine_id import machine_id
from tartlet.vm.stored.model import VmConfig

_NEEDED_NEXT = "tartlet.guest.service.service"
"""What the supervisor imports as soon as QEMU runs, and the largest thing that it imports."""

_NAMES = uuid.UUID("7a0e2a4e-6a3f-5b0b-9f0e-2d1c3b4a5968")
"""Name space of the machine identifiers that are derived from MAC addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run, ready to be started: everything it needs is claimed."""

    qemu: str
    """The program."""
    machine: Machine
    """Whole but for the monitor, which each attempt to start gets anew."""
    fingerprint: Fingerprint
    """What a saved state of this machine depends on."""
    agent: socket.socket
    """Our end of the QEMU guest agent's port."""
    own_agent: socket.socket
    """Our end of our own agent's port."""
    serial: socket.socket
    """Our end of the first serial port."""
    lent: tuple[socket.socket, ...]
    """QEMU's ends of connected pairs; closed here once QEMU has them."""
    identity: MachineIdentity
    network: Attachment
    folders: SharedFolders
    config: VmConfig
    """As it was when the run began."""
    options: RunOptions
    clipboard: bool
    """Whether the guest shares the clipboard with whoever looks at its screen."""
    image_disks: tuple[str, ...]
    """Images of which the VM has private copies as disks."""

    def machine_for(self, monitor: int, accelerator: Accelerator, *, restored: bool) -> Machine:
        """The machine of one attempt to start; `monitor` is QEMU's end of the monitor's pair."""
        return replace(self.machine, monitor=monitor, accelerator=accelerator, restored=restored)


@asynccontextmanager
async def planned(
    home: Home,
    vm: VmFolder,
    config: VmConfig,
    options: RunOptions,
    folders: SharedFolders,
    note: Callable[[str], None],
    inherited: Inherited | None = None,
) -> AsyncGenerator[Plan]:
    """Claim disks, terminals, memory and a network for one run, and say what QEMU has to build.

    Raises CannotRunHere, ToolMissing, FirmwareMissing, DiskInUse, MacTaken, and what else one of the parts refuses.
    """
    disk = runnable_disk(vm, config)
    extra = [parse_disk_option(value) for value in options.disks]
    async with AsyncExitStack() as held:
        agent, own_agent, port = (held.enter_context(_pair()) for _ in range(3))
        with ThreadPoolExecutor(max_workers=1) as beside:  # the first VM's network takes a while
            finding = beside.submit(_emulator, config, options)
            beside.submit(import_module, _NEEDED_NEXT)
            network = await held.enter_async_context(plugged_in(vm, config, options, forked=inherited is not None))
            emulator = finding.result()
        devices: tuple[Device, ...] = (
            Graphics(width=config.display.width, height=config.display.height, arch=config.arch),
            *cards(network, config.mac_address),
            _ports(agent.qemus, own_agent.qemus, options),
            Entropy(),
            Balloon(),
            Inputs(keyboard=not options.no_keyboard, pointer=not options.no_pointer),
            Sound(driver=_sound(options, emulator)),
            Slot(),
            *disks(held, home, vm, disk, options, extra),
            *folders.devices,
        )
        ram = held.enter_context(_ram(config.memory_size, inherited))
        machine = _machine(vm, config, options, emulator, port.qemus, devices, ram)
        reasons = (machine.accelerator.reason, emulator.window.reason)
        for line in (*reasons, f"network: {network.record.backend}", *network.notes):
            note(line)
        yield Plan(
            qemu=emulator.program,
            machine=machine,
            fingerprint=state_file.fingerprint(machine, emulator.version, disk_size=disk.size, mac=config.mac_address),
            agent=agent.ours,
            own_agent=own_agent.ours,
            serial=port.ours,
            lent=(agent.qemus, own_agent.qemus, port.qemus),
            identity=_identity(vm, forked=inherited is not None),
            network=network,
            folders=folders,
            options=options,
            clipboard=_shares_clipboard(options, emulator.window),
            config=config,
            image_disks=tuple(argument.path for argument in extra if names_image(argument)),
        )


@dataclass(frozen=True, slots=True)
class _Emulator:
    """What this host has for the guest."""

    program: str
    version: qemu.QemuVersion
    firmware: firmware.Firmware
    window: display.Window


def _emulator(config: VmConfig, options: RunOptions) -> _Emulator:
    program = qemu.find(config.arch)
    version = qemu.version(program)
    uefi = firmware.find(config.arch, version.series)
    return _Emulator(program, version, uefi, _window(options, config, program))


def _machine(
    vm: VmFolder,
    config: VmConfig,
    options: RunOptions,
    emulator: _Emulator,
    serial_port: socket.socket,
    devices: tuple[Device, ...],
    ram: Ram | None,
) -> Machine:
    return Machine(
        name=vm.name,
        arch=config.arch,
        type=machine_type(config.arch, emulator.version.series),
        cpus=config.cpu_count,
        memory=config.memory_size,
        accelerator=accel.choose(config.arch),
        firmware=emulator.firmware,
        variables=nvram.prepare(vm.path, emulator.firmware),
        monitor=-1,
        serial_log=vm.serial_log_path,
        serial=serial_port.fileno(),
        devices=devices,
        ram=ram,
        display=(*emulator.window.words, *(vnc.words() if options.vnc_experimental else vnc.private_words())),
        nested=options.nested,
        uuid=str(uuid.uuid5(_NAMES, config.mac_address)),
    )


def _ports(agent: socket.socket, own_agent: socket.socket, options: RunOptions) -> Ports:
    return Ports(
        ports=(
            Port(name=GUEST_AGENT_PORT, descriptor=agent.fileno()),
            Port(name=f"tart-version-{PRINTED_VERSION}"),
            Port(name=tart_agent.PORT, descriptor=own_agent.fileno()),
        ),
        console=_console(options),
    )


def _identity(vm: VmFolder, *, forked: bool) -> MachineIdentity:
    parts: tuple[str, ...] = ("name", "id", "keys")
    if forked:  # it gets the rest before it meets anybody (see `settle`)
        parts = ("keys",)
    elif os.path.exists(vm.seed_path) and not os.path.lexists(vm.state_path):  # a new seed brings keys and the name
        parts = ("id",)
    return MachineIdentity(id=machine_id(vm.path), name=valid_hostname(vm.name), parts=parts)


def _window(options: RunOptions, config: VmConfig, program: str) -> display.Window:
    if not options.wants_window:
        return display.Window(display.NO_WINDOW, "no window: none was asked for")
    return display.choose(
        os.environ,
        qemu.displays(program) if has_desktop(os.environ) else frozenset(),
        refit=bool(config.display_refit),
        closable=not options.suspendable,
        capture_system_keys=options.capture_system_keys,
    )


def _shares_clipboard(options: RunOptions, window: display.Window) -> bool:
    served = options.vnc_experimental or (options.web and not options.no_graphics)
    return not options.no_clipboard and (served or window.shares_clipboard)


def _sound(options: RunOptions, emulator: _Emulator) -> str:
    """Sound goes with a window: a machine without one has nobody to hear it."""
    if options.no_audio or options.suspendable or not emulator.window.shown:
        return audio.SILENT
    return audio.choose(os.environ, qemu.audio_drivers(emulator.program))


def _console(options: RunOptions) -> str | None:
    if options.serial:
        return serial.NEW_PSEUDO_TERMINAL
    return serial.existing_terminal(options.serial_path) if options.serial_path is not None else None


@dataclass(frozen=True, slots=True)
class _Pair:
    """The ends of a connection between this process and QEMU."""

    ours: socket.socket
    qemus: socket.socket


@contextmanager
def _pair() -> Generator[_Pair]:
    one, other = socket.socketpair()
    with one, other:
        yield _Pair(one, other)


@contextmanager
def _ram(size: int, inherited: Inherited | None) -> Generator[Ram | None]:
    """The guest's memory: that of the machine it is forked from, else a file of its own. Raises FileTrouble."""
    if inherited is not None and inherited.ram is not None:
        yield Ram(inherited.ram, private=True)
        return
    try:
        file = memory_file("guest", size)
    except OSError as exc:
        raise FileTrouble("cannot make the guest's memory,", f"{size} bytes", exc) from exc
    try:
        yield None if file is None else Ram(file)
    finally:
        if file is not None:
            os.close(file)
