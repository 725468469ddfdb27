"""A machine to QEMU's words. Devices write their own; this joins them with what every machine has."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tartlet.hypervisor.devices import escaped
from tartlet.hypervisor.machine import MONITOR, Machine, Ram

_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

_MEMORY = "memory"
"""The id of memory that is shared with helpers."""


def command_line(qemu: str, machine: Machine) -> list[str]:
    """The program and its words. The descriptors in them are `machine.descriptors()`. Raises TooManyDevices."""
    words = [qemu, "-nodefaults", "-no-user-config", *_identity(machine)]
    words += [*_firmware(machine), *_monitor(machine), *_first_serial_port(machine)]
    words += machine.display
    if machine.headless() and sys.platform == "linux":
        words += ["-sandbox", _SANDBOX]  # a window's libraries may start helpers; without one QEMU never has to
    for device in machine.devices:
        words += device.words()
    if machine.restored:
        words += ["-incoming", "defer"]
    return words


def _identity(machine: Machine) -> list[str]:
    words = ["-name", f"guest={escaped(machine.name)},debug-threads=on"]
    if machine.uuid is not None:
        words += ["-uuid", machine.uuid]
    options = "pflash0=firmware-code,pflash1=firmware-variables,dump-guest-core=off"
    if machine.arch == "amd64":
        # The firmware chosen needs no SMM, and a firmware that knows of no S3 starts faster.
        options += ",smm=off,vmport=off"
        words += ["-global", "ICH9-LPC.disable_s3=1"]
    if machine.arch == "arm64" and machine.accelerator.name == "tcg":
        options += ",gic-version=3"
    if machine.ram is not None:
        options += f",memory-backend={_MEMORY}"
        words += ["-object", _memory(machine.ram, machine.memory)]
    words += ["-machine", f"{machine.type},{options}", *machine.accelerator.words(nested=machine.nested)]
    words += ["-smp", str(machine.cpus), "-m", f"size={machine.memory}B", "-rtc", "base=utc"]
    if machine.arch == "amd64":
        words += ["-device", "vmgenid,guid=auto"]  # tells a restored guest that its random numbers repeat
    return words


def _memory(ram: Ram, size: int) -> str:
    share = "off" if ram.private else "on"
    return f"memory-backend-file,id={_MEMORY},size={size}B,mem-path=/proc/self/fd/{ram.descriptor},share={share}"


def _firmware(machine: Machine) -> list[str]:
    code = _flash("firmware-code", machine.firmware.code, machine.firmware.code_format, read_only=True)
    variables = _flash("firmware-variables", machine.variables.path, machine.variables.format, read_only=False)
    return ["-blockdev", code, "-blockdev", variables]


def _flash(node: str, path: Path, kind: str, *, read_only: bool) -> str:
    file = {"driver": "file", "filename": str(path)}
    return json.dumps({"node-name": node, "driver": kind, "read-only": read_only, "file": file})


def _monitor(machine: Machine) -> list[str]:
    return [
        *("-chardev", f"socket,id={MONITOR},fd={machine.monitor}"),
        *("-mon", f"chardev={MONITOR},mode=control"),
    ]


def _first_serial_port(machine: Machine) -> list[str]:
    log = escaped(machine.serial_log)
    if machine.serial is None:
        port = f"file,id=serial0,path={log},append=on"
    else:
        port = f"socket,id=serial0,fd={machine.serial},logfile={log},logappend=on"
    return ["-chardev", port, "-serial", "chardev:serial0"]
