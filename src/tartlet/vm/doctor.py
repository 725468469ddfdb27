"""What this host offers, what stands in the way, and what is left over: one list of findings."""

from __future__ import annotations

import enum
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from tartlet.errors import UserError
from tartlet.host.locks import try_file_lock
from tartlet.hypervisor import accel, firmware, qemu
from tartlet.units import human_count, human_size
from tartlet.version import PRINTED_VERSION
from tartlet.vm.stored.ended import Ending, last_run
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import VmState, host_arch
from tartlet.vm.stored.store import VmStore
from tartlet.vsock import slot

_LITTLE_SPACE = 5 * 1000**3


class Verdict(enum.StrEnum):
    """How good a finding is."""

    OK = "ok"
    NOTE = "note"
    """Works, though not as well as it could."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    verdict: Verdict
    text: str
    hint: str | None = None


def examine(store: VmStore, name: str | None = None) -> list[Finding]:
    """Look at the host and at all VMs, or more closely at one. Changes nothing. Raises VmMissing, VmIncomplete."""
    one = None if name is None else store.find(name)
    findings = [
        *_versions(),
        _accelerator(),
        *_qemu(),
        *_network(),
        *_network_settings(),
        _shared_folders(),
        _web_console(),
        _vsock(),
        _space(store),
        *_left_overs(store),
    ]
    for vm in [one] if one else store.all():
        findings += _vm(vm)
    return findings


def _versions() -> Iterator[Finding]:
    system = f"tart {PRINTED_VERSION}, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    yield Finding(topic="versions", verdict=Verdict.OK, text=f"{system} on {platform.machine()}")


def _accelerator() -> Finding:
    chosen = accel.choose(host_arch())
    fast = chosen.name != "tcg"
    return Finding(
        topic="accelerator",
        verdict=Verdict.OK if fast else Verdict.NOTE,
        text=f"{chosen.name}: {chosen.reason}",
        hint=None if fast else "guests are emulated and slow; run on a host with KVM for full speed",
    )


def _qemu() -> Iterator[Finding]:
    own = host_arch()
    for arch in (own, "arm64" if own == "amd64" else "amd64"):
        needed = Verdict.PROBLEM if arch == own else Verdict.NOTE
        try:
            path = qemu.find(arch)
            version = qemu.version(path)
            yield Finding(topic="qemu", verdict=Verdict.OK, text=f"{arch} guests: {path}, version {version}")
            found = firmware.find(arch, version.series)
            yield Finding(topic="firmware", verdict=Verdict.OK, text=f"{arch} guests: {found.code}")
        except UserError as exc:
            topic = "firmware" if isinstance(exc, firmware.FirmwareMissing) else "qemu"
            yield Finding(topic=topic, verdict=needed, text=f"{arch} guests: {exc}", hint=exc.hint)
    if shutil.which("qemu-img") is None:
        yield Finding(
            topic="qemu",
            verdict=Verdict.PROBLEM,
            text="qemu-img was not found",
            hint="install it: apt install qemu-utils",
        )


def _network() -> Iterator[Finding]:
    from tartlet.network.backend import survey

    for name, lacks in survey():
        yield Finding(
            topic="network",
            verdict=Verdict.NOTE if lacks else Verdict.OK,
            text=f"{name}: {lacks.reason if lacks else 'usable'}",
            hint=lacks.hint if lacks else None,
        )


def _network_settings() -> Iterator[Finding]:
    from tartlet.network import preferences
    from tartlet.network.install.setup import is_installed

    try:
        in_hosts_network = preferences.read().backend == "bridge"
    except UserError as exc:
        yield Finding(topic="network", verdict=Verdict.PROBLEM, text=str(exc), hint=exc.hint)
        return
    if in_hosts_network or is_installed():
        yield from _firewalls()


def _firewalls() -> Iterator[Finding]:
    from tartlet.network.install import firewalls

    topic = "firewalls"
    try:
        found = firewalls.obstacles()
    except UserError as exc:
        yield Finding(topic=topic, verdict=Verdict.NOTE, text=str(exc), hint=exc.hint)
        return
    for one in found:
        yield Finding(topic=topic, verdict=Verdict.NOTE, text=one.text, hint="; ".join(one.remedy))
    if not found:
        yield Finding(topic=topic, verdict=Verdict.OK, text="none stands in the way of VMs in this host's network")


def _shared_folders() -> Finding:
    from tartlet.share import virtiofsd

    topic = "shared folders"
    try:
        found = virtiofsd.find()
    except UserError as exc:
        return Finding(topic=topic, verdict=Verdict.NOTE, text=str(exc), hint=exc.hint)
    return Finding(topic=topic, verdict=Verdict.OK, text=found.path)


def _web_console() -> Finding:
    from tartlet.web import assets

    topic = "web console"
    try:
        assets.found()
    except assets.AssetsMissing as exc:
        return Finding(topic=topic, verdict=Verdict.NOTE, text=str(exc), hint=exc.hint)
    return Finding(topic=topic, verdict=Verdict.OK, text="noVNC and xterm.js are there")


def _vsock() -> Finding:
    lacks = slot.kernel_lacks()
    text = f"carried by Tartlet itself: {lacks}" if lacks else f"carried by {slot.KERNEL}"
    return Finding(topic="vsock", verdict=Verdict.OK, text=text)


def _space(store: VmStore) -> Finding:
    free = shutil.disk_usage(store.home.root).free
    little = free < _LITTLE_SPACE
    return Finding(
        topic="space",
        verdict=Verdict.PROBLEM if little else Verdict.OK,
        text=f"{human_size(free)} free for {store.home.root}",
        hint="delete VMs you do not need, or move the home with TART_HOME" if little else None,
    )


def _left_overs(store: VmStore) -> Iterator[Finding]:
    stale = [entry for entry in sorted(os.listdir(store.home.tmp)) if _unlocked(store, entry)]
    yield Finding(
        topic="left-overs",
        verdict=Verdict.NOTE if stale else Verdict.OK,
        text=f"{len(stale)} unfinished pieces of work in {store.home.tmp}" if stale else "none",
        hint="any other tart command removes them" if stale else None,
    )
    vms = store.home.vms
    for name in sorted(os.listdir(vms)) if vms.is_dir() else []:
        if not store.folder(name).is_vm():
            yield Finding(
                topic="left-overs",
                verdict=Verdict.NOTE,
                text=f"{vms / name} is not a VM: config.json, disk.img or nvram.bin is missing",
                hint="restore the missing files, or remove it",
            )


def _unlocked(store: VmStore, entry: str) -> bool:
    try:
        lock = try_file_lock(store.home.tmp / entry)
    except UserError:
        return True  # a dangling link, or gone meanwhile
    if lock is None:
        return False
    os.close(lock)
    return True


def _vm(vm: VmFolder) -> Iterator[Finding]:
    topic = f"VM {vm.name}"
    try:
        config = vm.config()
    except UserError as exc:
        yield Finding(topic=topic, verdict=Verdict.PROBLEM, text=str(exc), hint=exc.hint)
        return
    state = vm.state()
    processors = human_count(config.cpu_count, "CPU")
    described = f"{state}, {config.os} {config.arch}, {processors}, {human_size(config.memory_size)} memory"
    yield Finding(topic=topic, verdict=Verdict.OK, text=described)
    run = last_run(vm)
    if state is VmState.RUNNING:
        yield from _channel(vm)
        return
    if run.ending in (Ending.CRASHED, Ending.KILLED):
        yield Finding(
            topic=topic,
            verdict=Verdict.NOTE,
            text=f"its last run ended: {run.said()}",
            hint=f"see `tart logs {vm.name} --qemu`",
        )
    if os.path.lexists(vm.path / "control.sock"):
        yield Finding(
            topic=topic, verdict=Verdict.OK, text="control.sock is left from an earlier run; the next run replaces it"
        )


def _channel(vm: VmFolder) -> Iterator[Finding]:
    """Whether commands get into a running VM, tried out through its control socket."""
    import anyio

    from tartlet.guest.service.agents import Kind
    from tartlet.guest.service.vsock_agent import PORT as VSOCK_PORT

    topic = f"VM {vm.name}"
    try:
        agent, transport, system = anyio.run(_agent_tried, vm)
    except UserError as exc:
        yield Finding(topic=topic, verdict=Verdict.NOTE, text=f"the guest agent: {exc}", hint=exc.hint)
        return
    if agent == Kind.TART:
        text = f"commands go through Tartlet's own agent, which the guest has running ({system})"
        yield Finding(topic=topic, verdict=Verdict.OK, text=text)
    elif agent == Kind.VSOCK:
        why = f"because Tartlet's own does not run in it ({system}); the way is {transport}"
        text = f"commands go through the guest's agent on vsock port {VSOCK_PORT}, {why}"
        yield Finding(topic=topic, verdict=Verdict.OK, text=text)
    else:
        yield Finding(
            topic=topic,
            verdict=Verdict.NOTE,
            text=f"commands go through the QEMU guest agent, because Tartlet's own does not run in it ({system})",
            hint=f"for terminals, streams and port forwarding: `tart agent install {vm.name}`",
        )


async def _agent_tried(vm: VmFolder) -> tuple[str | None, str | None, str]:
    from tartlet.guest.commands import Command
    from tartlet.guest.errors import escaped
    from tartlet.guest.rpc.channel import connect

    said = bytearray()

    async def keep(piece: bytes) -> None:
        said.extend(piece[:200])

    async with connect(vm.path, patience=2) as channel:
        await channel.execute(Command(name="uname", args=("-sr",)), keep, keep)
        return channel.agent, channel.transport, escaped(said.decode(errors="replace"))
