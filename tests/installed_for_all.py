"""The command as an administrator would have installed it: in `/opt/tartlet`, root's, run by the system's Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import anyio
import click
import dns
import msgspec
import pytest
import typing_extensions

import tartlet
from command import Called

PREFIX = Path("/opt/tartlet")
COMMAND, HELPER = PREFIX / "bin/tart", PREFIX / "bin/tart-net-helper"
_SYSTEM_PYTHON = Path("/usr/bin/python3")
_TESTS = Path(__file__).parent
_VERSION = "from sys import *; print('python%d.%d' % version_info[:2]); exit(version_info < (3, 11))"
_PROGRAMS = {COMMAND: "tartlet.cli.main", HELPER: "tartlet.network.bridge.host_process"}
_SCRIPT = "#!{python}\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
_NEEDED = (tartlet, anyio, click, dns, typing_extensions, msgspec)
"""What `tart network` and the helper import. The last one is compiled for the tests' Python."""


@dataclass(frozen=True, kw_only=True)
class OwnSystem:
    """A machine of its own as far as files go, with the command installed."""

    opt: Path
    """What is `/opt` there."""
    helper_runs: bool
    """Whether the system's Python is of the tests' version, for which the helper's compiled parts were made."""

    def sh(self, script: str, *, namespaces: tuple[str, ...] = ("--mount",), timeout: float = 60) -> Called:
        """Run a shell script there, as root. Each call begins with this machine's `/etc`."""
        own = ["unshare", *namespaces, sys.executable, str(_TESTS / "own_system.py"), str(self.opt)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("TART_", "SUDO_"))}
        done = subprocess.run(
            [*own, "sh", "-euc", script],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False, env=environment,
        )  # fmt: skip
        return Called(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def own_system(tmp_path_factory: pytest.TempPathFactory) -> OwnSystem:
    """Installed once for all tests. Skips where the system's own Python is too old or not root's."""
    if not _SYSTEM_PYTHON.exists() or os.geteuid() != 0:
        pytest.skip("needs root and the system's own Python")
    told = subprocess.run([_SYSTEM_PYTHON, "-c", _VERSION], capture_output=True, text=True, check=False)
    if told.returncode:
        pytest.skip(f"the system's own Python is {told.stdout.strip()}")
    opt = tmp_path_factory.mktemp("opt", numbered=True)
    _install(opt / "tartlet", told.stdout.strip())
    opt.chmod(0o755)
    same = told.stdout.strip() == "python{}.{}".format(*sys.version_info)
    return OwnSystem(opt=opt, helper_runs=same)


def _install(prefix: Path, python: str) -> None:
    subprocess.run([_SYSTEM_PYTHON, "-m", "venv", "--without-pip", prefix], check=True, capture_output=True)
    packages = prefix / "lib" / python / "site-packages"
    for module in _NEEDED:
        source = Path(str(module.__file__))
        if source.name == "__init__.py":
            shutil.copytree(source.parent, packages / source.parent.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, packages)
    for program, start in _PROGRAMS.items():
        script = prefix / program.relative_to(PREFIX)
        script.write_text(_SCRIPT.format(python=PREFIX / "bin/python", module=start))
        script.chmod(0o755)
    for folder, folders, files in os.walk(prefix):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), 0, 0, follow_symlinks=False)
