"""The saved state of a suspended machine: one file, a header of ours and then QEMU's migration stream.

    offset 0     magic `TARTLET STATE\\0\\0\\0` (16 bytes)
    offset 16    version of this format, u32; length of the JSON, u32 (little-endian)
    offset 24    JSON: qemu, machine, shape, stream (bytes), saved (seconds since 1970)
    offset 4096  the stream

The header is written last, so that a file with one is whole. `shape` names what must not change between saving and
restoring; it is compared before a QEMU is started, because QEMU itself says only that a section did not match.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread

from tartlet.errors import FileTrouble, UserError
from tartlet.host.files import write_at
from tartlet.host.trouble import what_to_do
from tartlet.hypervisor.machine import Machine
from tartlet.hypervisor.qemu import QemuVersion
from tartlet.hypervisor.qmp import CommandFailed, Monitor, MonitorUnreachable, RunState
from tartlet.hypervisor.qmp_events import Events
from tartlet.units import MIB

STREAM_OFFSET = 4096
_MAGIC = b"TARTLET STATE\0\0\0"
_VERSION = 1
_HEADER = struct.Struct("<16sII")
_GIVING_UP = 10.0
"""Seconds QEMU gets to stop writing."""
_CLEARING_UP = 500
"""Hundredths of a second."""
_BETWEEN = "; "
_FULL_SPEED = 1 << 40
"""Bytes a second: the limit QEMU has by default is meant for moving a live machine over a network."""


class StateRefused(UserError):
    """A saved state that cannot be restored here and now. The file is left as it is."""

    def __init__(self, path: Path, reason: str, hint: str | None = None) -> None:
        super().__init__(f"the saved state {path} cannot be restored: {reason}")
        self.hint = hint or "undo the change, or give the saved state up with `tart stop`"
        self.path, self.reason = path, reason


class SaveFailed(UserError):
    """The machine could not be saved; it goes on running."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(f"the machine could not be saved and goes on running: {reason}", hint)
        self.reason = reason


class RestoreFailed(UserError):
    """QEMU could not take a saved state that looked right."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"QEMU could not restore the saved state: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What a saved state depends on."""

    qemu: str
    """QEMU's series, like 7.2: a repair release reads the states of its series."""
    machine: str
    """The versioned machine type."""
    shape: Mapping[str, str]
    """Names of properties to their values, all of them in the user's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """A saved state that was opened and fits. The descriptor stands at the stream and belongs to the caller."""

    descriptor: int
    size: int
    """Bytes of the stream."""
    saved: float
    """Seconds since 1970."""


def fingerprint(machine: Machine, qemu: QemuVersion, *, disk_size: int, mac: str) -> Fingerprint:
    """What a state of `machine` depends on. `disk_size` is in bytes."""
    shape = {
        "architecture": machine.arch,
        "CPUs": str(machine.cpus),
        "memory": f"{machine.memory} bytes",
        "MAC address": mac,
        "disk size": f"{disk_size} bytes",
        "accelerator": f"{machine.accelerator.name}, CPU model {machine.accelerator.cpu}",
        "nested virtualisation": "on" if machine.nested else "off",
        "firmware": f"{machine.firmware.code} ({machine.firmware.code.stat().st_size} bytes)",
        "devices": _BETWEEN.join(device.shape() for device in machine.devices),
    }
    return Fingerprint(qemu=qemu.series, machine=machine.type, shape=shape)


def with_disk_size(of: Fingerprint, size: int) -> Fingerprint:
    """The same machine, whose disk has grown to `size` bytes."""
    return replace(of, shape={**of.shape, "disk size": f"{size} bytes"})


async def save(monitor: Monitor, path: Path, of: Fingerprint) -> int:
    """Halt the machine and write its state to the new file `path`, flushed; returns the file's size in bytes.

    The caller ends QEMU and moves the file into place. When it fails the file is removed and the machine goes on.
    Raises SaveFailed, MonitorUnreachable.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise SaveFailed(f"cannot write {path}: {exc.strerror}", what_to_do(exc)) from exc
    try:
        return await _saved(monitor, descriptor, of)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def open_for_resume(path: Path, of: Fingerprint) -> SavedState:
    """Open the state at `path` for a machine that is about to be started. Raises StateRefused, FileTrouble."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise FileTrouble("cannot open the saved state", path, exc) from exc
    try:
        header = _header(path, descriptor)
        _compare(path, header, of)
        os.lseek(descriptor, STREAM_OFFSET, os.SEEK_SET)
        return SavedState(descriptor=descriptor, size=int(header["stream"]), saved=float(header["saved"]))
    except BaseException:
        os.close(descriptor)
        raise


async def stream(monitor: Monitor, descriptor: int, *, with_memory: bool) -> None:
    """Write the state of a halted machine to an open file, from its present offset on; it stays halted.

    `with_memory`: memory that is a shared file is in the stream too. Raises CommandFailed, MonitorUnreachable.
    """
    limits = {"max-bandwidth": _FULL_SPEED, "downtime-limit": 2_000_000}
    await monitor.set_migration(capabilities=_capabilities(with_memory=with_memory), parameters=limits)
    await monitor.give("state", descriptor)
    with monitor.listening("MIGRATION") as events:
        try:
            await monitor.migrate("fd:state")
            outcome = await _outcome(events)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(_GIVING_UP, shield=True):  # nothing comes when QEMU had just refused
                await monitor.migrate_cancel()
                await _outcome(events)
            raise
    if outcome != "completed":
        reply = await monitor.migration()
        raise CommandFailed("migrate", str(reply.get("error-desc") or _likely_cause(descriptor) or outcome))


def _save_failed(cause: CommandFailed | OSError) -> SaveFailed:
    if isinstance(cause, OSError):
        return SaveFailed(cause.strerror or str(cause), what_to_do(cause))
    no_room = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return SaveFailed(cause.reason, what_to_do(no_room) if str(no_room.strerror) in cause.reason else None)


def _likely_cause(descriptor: int) -> str | None:
    """QEMU does not always tell what kept it from writing; a full disk is what it mostly is."""
    room = os.fstatvfs(descriptor)
    return os.strerror(errno.ENOSPC) if room.f_bavail * room.f_frsize < MIB else None


def _capabilities(*, with_memory: bool) -> dict[str, bool]:
    return {"events": True, "x-ignore-shared": not with_memory}


async def restore(monitor: Monitor, state: SavedState, *, with_memory: bool = True) -> None:
    """Read the state into a QEMU that was started with `-incoming defer`; the machine is left halted.

    QEMU is handed the descriptor. Without memory in the state, the machine has its memory already. Raises
    RestoreFailed, MonitorUnreachable.
    """
    try:
        await monitor.set_migration(capabilities=_capabilities(with_memory=with_memory), parameters={})
        await monitor.give("state", state.descriptor)
        with monitor.listening("MIGRATION") as events:
            await monitor.migrate_incoming("fd:state")
            outcome = await _outcome(events)
    except CommandFailed as exc:
        raise RestoreFailed(exc.reason) from exc
    except MonitorUnreachable as exc:  # how QEMU ends when it does not understand what it reads
        raise RestoreFailed("it ended while reading; its log tells more") from exc
    if outcome != "completed":
        raise RestoreFailed("it stopped reading; its log tells more")


async def _saved(monitor: Monitor, descriptor: int, of: Fingerprint) -> int:
    was = await monitor.status()
    try:
        await monitor.stop()
        os.lseek(descriptor, STREAM_OFFSET, os.SEEK_SET)
        await stream(monitor, descriptor, with_memory=True)
        end = os.fstat(descriptor).st_size
        _write_header(descriptor, end - STREAM_OFFSET, of)
        await anyio.to_thread.run_sync(os.fsync, descriptor)
    except (CommandFailed, OSError) as exc:
        await go_on(monitor, was)
        raise _save_failed(exc) from exc
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await go_on(monitor, was)
        raise
    return end


async def go_on(monitor: Monitor, was: RunState) -> None:
    """Let a halted machine run again if it ran before. Raises CommandFailed, MonitorUnreachable."""
    if was is not RunState.RUNNING:
        return
    for _ in range(_CLEARING_UP):
        # QEMU tells the end of a migration before it has cleared up after it, refuses to go on in between, and has no
        # event for it.
        if await monitor.status() is not RunState.FINISH_MIGRATE:
            break
        await anyio.sleep(0.01)
    await monitor.cont()


async def _outcome(events: Events) -> str:
    async for event in events:
        if (status := str(event.data.get("status"))) in ("completed", "failed", "cancelled"):
            return status
    raise MonitorUnreachable("QEMU ended in the middle of it")


def _write_header(descriptor: int, stream: int, of: Fingerprint) -> None:
    told = {"qemu": of.qemu, "machine": of.machine, "shape": dict(of.shape), "stream": stream, "saved": time.time()}
    text = json.dumps(told).encode()
    if _HEADER.size + len(text) > STREAM_OFFSET:
        raise OSError(0, "the description of the machine is too long")
    write_at(descriptor, _HEADER.pack(_MAGIC, _VERSION, len(text)) + text, 0)


def _header(path: Path, descriptor: int) -> dict[str, Any]:
    start = os.pread(descriptor, STREAM_OFFSET, 0)
    if not start.startswith(_MAGIC):
        what = "it is not whole" if not start.strip(b"\0") else "it was not written by this program (Apple's format?)"
        raise StateRefused(path, what, "give it up with `tart stop`, or restore it where it was saved")
    _, version, length = _HEADER.unpack_from(start)
    if version != _VERSION:
        raise StateRefused(path, f"its format has version {version}; this program knows {_VERSION}", "use a newer tart")
    try:
        header = cast("dict[str, Any]", json.loads(start[_HEADER.size : _HEADER.size + length]))
        expected = STREAM_OFFSET + int(header["stream"])
        _ = float(header["saved"]), str(header["qemu"]), str(header["machine"]), dict(header["shape"])
    except (ValueError, KeyError, TypeError) as exc:
        raise StateRefused(path, "its header is damaged") from exc
    size = os.fstat(descriptor).st_size
    if size < expected:
        raise StateRefused(path, f"it is cut short ({size} of {expected} bytes)")
    return header


def _compare(path: Path, header: dict[str, Any], of: Fingerprint) -> None:
    if header["qemu"] != of.qemu:
        raise StateRefused(
            path, f"QEMU {header['qemu']} saved it and this is QEMU {of.qemu}", f"use QEMU {header['qemu']} once more"
        )
    if header["machine"] != of.machine:
        raise StateRefused(path, f"it is of a machine of type {header['machine']}, now it would be {of.machine}")
    for name in sorted(dict(of.shape) | header["shape"]):
        before, now = str(header["shape"].get(name, "unset")), of.shape.get(name, "unset")
        if before != now:
            raise StateRefused(path, f"{name} changed since it was saved: {_difference(before, now)}")


def _difference(before: str, now: str) -> str:
    """What only one of two lists has; the whole of them when they have nothing in common."""
    old, new = before.split(_BETWEEN), now.split(_BETWEEN)
    only_then = _BETWEEN.join(part for part in old if part not in new)
    only_now = _BETWEEN.join(part for part in new if part not in old)
    return f"{only_then or 'nothing more'} then, {only_now or 'nothing more'} now"
