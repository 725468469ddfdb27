"""What runs the guest's instructions: kvm, hvf or tcg, and the reason, ready to be shown.

A `/dev/kvm` that opens is not enough: inside some virtual machines the node opens although the processor offers neither
vmx nor svm, and a guest started on it hangs. So the processor is asked first.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace

AMD64 = "amd64"
ARM64 = "arm64"
_NAMES = {"x86_64": AMD64, "amd64": AMD64, "aarch64": ARM64, "arm64": ARM64}
QEMU_ARCH = {AMD64: "x86_64", ARM64: "aarch64"}
"""Our names of architectures (those of `config.json`) to QEMU's."""

_NESTED_PARAMETERS = ("/sys/module/kvm_intel/parameters/nested", "/sys/module/kvm_amd/parameters/nested")
_NO_NESTED = ",vmx=off,svm=off"
_HOST_CPU_REFUSED = (
    "cpu model 'host' requires",
    "unable to find cpu definition",
    "host doesn't support requested feature",
    "kvm_init_vcpu failed",
    "failed to retrieve host cpu features",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the choice depends on. A value; `read` asks this host."""

    arch: str
    platform: str
    """As in `sys.platform`."""
    kvm_trouble: str | None
    """Why `/dev/kvm` does not open; None when it does."""
    cpu_flags: frozenset[str] = field(default_factory=frozenset[str])
    """vmx or svm when the processor offers it; only looked for on amd64."""
    nested: bool = False
    """Whether the loaded KVM module lets guests run guests."""

    @classmethod
    def read(cls) -> HostFacts:
        """The facts of this host; a few small reads."""
        machine = os.uname().machine
        return cls(
            arch=_NAMES.get(machine, machine),
            platform=sys.platform,
            kvm_trouble=_kvm_trouble(),
            cpu_flags=_virtualisation_flags(),
            nested=any(_says_yes(path) for path in _NESTED_PARAMETERS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One way to run a guest, and why it was chosen."""

    name: str
    """kvm, hvf or tcg."""
    reason: str
    """One line for `tart doctor` and the log."""
    guest_arch: str
    cpu: str
    """QEMU's CPU model."""
    multi_threaded: bool = True
    """tcg only: one thread for each processor of the guest."""
    notice: str | None = None
    """What the user should know before the guest starts; None when all is as expected."""

    def words(self, *, nested: bool = False) -> list[str]:
        """`-accel` and `-cpu`. Without `nested` a guest is not offered virtualisation of its own."""
        accel = self.name
        if self.name == "tcg":
            accel += ",thread=multi" if self.multi_threaded else ",thread=single"
        hide = self.name == "kvm" and self.cpu == "host" and self.guest_arch == AMD64 and not nested
        return ["-accel", accel, "-cpu", self.cpu + (_NO_NESTED if hide else "")]

    def with_named_cpu(self) -> Accelerator | None:
        """The same with a CPU model by name, for hosts whose `-cpu host` fails; None when it has one already."""
        if self.cpu != "host":
            return None
        model = "max" if self.guest_arch == ARM64 else "Nehalem"
        return replace(
            self,
            cpu=model,
            reason=f"{self.reason}; CPU model {model} because `-cpu host` failed",
            notice=f"QEMU refused the host's own CPU model; the guest gets {model}",
        )


def choose(guest_arch: str, host: HostFacts | None = None) -> Accelerator:
    """The fastest accelerator that works for a guest of `guest_arch`. Pure when `host` is given."""
    host = host or HostFacts.read()
    if guest_arch != host.arch:
        return _emulated(guest_arch, host, f"guests for {guest_arch} have to be emulated on {host.arch}", tell=True)
    if host.platform == "darwin":
        reason = "HVF: the guest has the host's architecture"
        return Accelerator(name="hvf", reason=reason, guest_arch=guest_arch, cpu="host")
    if host.arch == AMD64 and not host.cpu_flags & {"vmx", "svm"}:
        return _emulated(guest_arch, host, "the processor offers neither vmx nor svm, so KVM cannot work")
    if host.kvm_trouble:
        return _emulated(guest_arch, host, host.kvm_trouble)
    offer = "the processor offers " + (" and ".join(sorted(host.cpu_flags)) or "it")
    reason = f"KVM: /dev/kvm opens and {offer}"
    return Accelerator(name="kvm", reason=reason, guest_arch=guest_arch, cpu="host")


def nested_obstacle(accelerator: Accelerator, host: HostFacts | None = None) -> str | None:
    """Why guests on this host cannot run guests of their own with `--nested`; None when they can."""
    host = host or HostFacts.read()
    if accelerator.name != "kvm":
        return f"nested virtualisation needs KVM ({accelerator.reason})"
    if host.arch != AMD64:
        return "nested virtualisation is offered on amd64 hosts only"
    if not host.nested:
        return "the KVM module was loaded with nested=0"
    return None


def host_cpu_refused(log_tail: str) -> bool:
    """Whether QEMU's last words say that it could not offer the host's CPU model."""
    said = log_tail.lower()
    return any(sign in said for sign in _HOST_CPU_REFUSED)


def _emulated(guest_arch: str, host: HostFacts, why: str, *, tell: bool = False) -> Accelerator:
    return Accelerator(
        name="tcg",
        reason=f"TCG (emulation): {why}",
        guest_arch=guest_arch,
        # The default pointer authentication of arm64 is a cipher that costs more than all else when emulated.
        cpu="max,pauth-impdef=on" if guest_arch == ARM64 else "max",
        # amd64 promises its programs more about the order of memory accesses than an arm64 host keeps.
        multi_threaded=not (guest_arch == AMD64 and host.arch == ARM64),
        notice=f"{why}; it will be slow" if tell else None,
    )


def _kvm_trouble() -> str | None:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "/dev/kvm does not exist"
    except PermissionError:
        return "/dev/kvm may not be opened by this user (join the group kvm)"
    except OSError as exc:
        return f"/dev/kvm does not open: {exc.strerror}"
    return None


def _virtualisation_flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("flags"):
                    return frozenset(line.split()) & {"vmx", "svm"}
    except OSError:
        pass
    return frozenset()


def _says_yes(path: str) -> bool:
    try:
        with open(path, encoding="ascii") as parameter:
            return parameter.read(1) in ("Y", "1")
    except OSError:
        return False
