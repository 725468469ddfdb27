"""The QEMU programs of this host and what they say about themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

from tartlet.errors import ToolFailed, ToolMissing, UserError
from tartlet.host.process import run_now
from tartlet.hypervisor.accel import QEMU_ARCH

_PACKAGES = {"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"}
_SECONDS = 20
"""QEMU answers within tens of milliseconds; a machine short of memory may swap it in first."""


class QemuUnclear(UserError):
    """QEMU was found but would not say what it is."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} does not answer as QEMU does: {reason}", "run it by hand with --version")
        self.path = path


@dataclass(frozen=True, slots=True, order=True)
class QemuVersion:
    """A release of QEMU; the last number counts repairs that keep machine states readable."""

    major: int
    minor: int
    micro: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.micro}"

    @property
    def series(self) -> str:
        """The part that machine types are named after, like `7.2`."""
        return f"{self.major}.{self.minor}"


def find(guest_arch: str) -> str:
    """The path of the QEMU for guests of `guest_arch` (amd64, arm64). Raises ToolMissing with the package's name."""
    program = f"qemu-system-{QEMU_ARCH[guest_arch]}"
    path = shutil.which(program)
    if path is None:
        raise ToolMissing(
            program, f"install it: apt install {_PACKAGES[guest_arch]}; `tart doctor` lists what is missing"
        )
    return path


@cache
def version(path: str) -> QemuVersion:
    """Which QEMU `path` is; asked once in a process. Raises ToolMissing, QemuUnclear."""
    found = re.search(r"version (\d+)\.(\d+)(?:\.(\d+))?", _answer(path, "--version"))
    if found is None:
        raise QemuUnclear(path, "it names no version")
    return QemuVersion(int(found[1]), int(found[2]), int(found[3] or 0))


@cache
def displays(path: str) -> frozenset[str]:
    """The kinds of window this QEMU was built with: `gtk`, `sdl`, … Raises ToolMissing, QemuUnclear."""
    lines = _answer(path, "-display", "help").splitlines()
    return frozenset(line.strip() for line in lines if re.fullmatch(r"[a-z][a-z-]*", line.strip()))


@cache
def audio_drivers(path: str) -> frozenset[str]:
    """The ways to sound this QEMU was built with: `pa`, `pipewire`, `alsa`, … Raises ToolMissing, QemuUnclear."""
    lines = _answer(path, "-audiodev", "help").splitlines()
    return frozenset(line.strip() for line in lines if re.fullmatch(r"[a-z]+", line.strip()))


def _answer(path: str, *words: str) -> str:
    try:
        return run_now(path, *words, timeout=_SECONDS)
    except ToolFailed as exc:
        raise QemuUnclear(path, str(exc)) from exc
    except subprocess.TimeoutExpired as exc:
        raise QemuUnclear(path, f"no answer within {_SECONDS} seconds") from exc
