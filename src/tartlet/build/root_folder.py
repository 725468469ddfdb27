"""A guest's root as a folder: packages by mmdebstrap(1), then our files and settings."""

from __future__ import annotations

import logging
import os
import subprocess
from collections import deque
from itertools import takewhile
from pathlib import Path
from shlex import quote

from anyio.streams.text import TextReceiveStream

from tartlet.build.emulation import registered, registration, this_host
from tartlet.build.overlay import write_overlay
from tartlet.build.progress import Progress, Report
from tartlet.build.recipe import HOOKS, Recipe
from tartlet.build.requirements import CannotBuild, search_path
from tartlet.build.sandbox import boxed
from tartlet.host.process import run, started

log = logging.getLogger(__name__)

_UNWANTED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/lintian/*", "/usr/share/locale/*", "/usr/share/man/*")
_WANTED = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")

_STAGES = {
    "running apt-get update": "reading package lists",
    "downloading packages with apt": "downloading packages",
    "extracting archives": "unpacking the base system",
    "installing essential packages": "installing the base system",
    "installing remaining packages": "installing packages",
    "cleaning package lists": "cleaning up",
}


class PackagesFailed(CannotBuild):
    """mmdebstrap ended with an error: a mirror that does not answer, a package that is gone, a full disk."""


async def make_root(recipe: Recipe, work: Path, report: Report) -> Path:
    """Fill `work/root` with a sealed guest, and `work/esp` with its EFI system partition; gives the former.

    Some of the files belong to subordinate ids. Raises PackagesFailed, ToolFailed.
    """
    overlay, customize, root = work / "overlay.tar", work / "customize", work / "root"
    write_overlay(recipe, overlay)
    customize.write_bytes((HOOKS / "customize.sh").read_bytes())
    customize.chmod(0o755)
    words = _words(recipe, overlay, customize, root)
    line = registration(recipe.architecture, this_host())
    await _mmdebstrap(registered(line, words) if line else words, report)
    report(Progress("sealing the guest"))
    seal = boxed("sh", HOOKS / "seal.sh", root, work / "esp", recipe.distribution)
    await run(*seal, env=_environment())
    return root


def _words(recipe: Recipe, overlay: Path, customize: Path, root: Path) -> list[str]:
    return [
        # Whether foreign programs run was found out before, in a way that needs no arch-test(1).
        *("mmdebstrap", "--skip=check/qemu", "--mode=root", "--format=directory", "--variant=minbase"),
        *(f"--architectures={recipe.architecture}", f"--include={','.join(recipe.packages)}"),
        f"--keyring={recipe.suite.distribution.keyring}",
        *('--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "3"', "--dpkgopt=force-unsafe-io"),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _UNWANTED),
        *(f"--dpkgopt=path-include={pattern}" for pattern in _WANTED),
        f"--essential-hook=tar-in {quote(str(overlay))} /",
        f"--customize-hook={customize}",
        *(recipe.codename, os.fspath(root), *recipe.mirrors),
    ]


def _environment() -> dict[str, str]:
    # The guest's files must not depend on the day they were made, nor on the user's settings.
    return {"SOURCE_DATE_EPOCH": "1700000000", "PATH": search_path(), "TMPDIR": "/tmp"}  # noqa: S108


async def _mmdebstrap(words: list[str], report: Report) -> None:
    """Run it, turning what it tells on stderr into stages."""
    told: deque[str] = deque(maxlen=40)
    process = await started(
        boxed(*words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **_environment()},
    )
    async with process:
        assert process.stderr is not None
        rest = ""
        async for text in TextReceiveStream(process.stderr, errors="replace"):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                log.debug("mmdebstrap: %s", line)
                told.append(line)
                _announce(line, report)
        await process.wait()
    if process.returncode:
        raise PackagesFailed(
            f"building the guest failed: {_reason([*told, rest])}",
            "is the mirror reachable? TART_DEBIAN_MIRROR and TART_UBUNTU_MIRROR name another; "
            "the debug log has everything mmdebstrap said",
        )


def _announce(line: str, report: Report) -> None:
    if line.startswith("I: "):
        stage = next((ours for theirs, ours in _STAGES.items() if theirs in line), None)
        if stage:
            report(Progress(stage))


def _reason(lines: list[str]) -> str:
    """The line that tells why: apt's or dpkg's first error, else what a script said last before mmdebstrap gave up."""
    told = [line for line in takewhile(lambda line: not line.startswith("E: setup failed"), lines) if line.strip()]
    errors = [line for line in told if line.startswith(("E: ", "dpkg: error"))]
    plain = [line for line in told if not line.startswith("I: ")]
    return errors[0] if errors else (plain or told or ["no message"])[-1]
