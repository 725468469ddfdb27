"""Our own agent as a package, as Debian's tools see it. `tests/vm/test_vm_agent.py` installs it in a guest."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tartlet.guest.own_agent.agent_package import agent_package, debian_version
from tartlet.guest.own_agent.tart_agent import PACKAGED_FILE

SCRIPT = Path(__file__).parents[2] / "scripts" / "agent-deb"

KNOWN = {
    "bogus-mail-host-in-debian-changelog": "the project has no mail address",
    "malformed-contact": "the same",
    "maintainer-script-calls-systemctl": "an agent that runs must not be stopped: dpkg may be one of its commands",
    "package-supports-alternative-init-but-no-init.d-script": "Debian's own guests have systemd",
    "systemd-service-file-missing-install-key": "udev starts it where the port is",
}
"""What lintian finds, and why it stays."""


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    name, content = agent_package()
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def told(*words: str | Path, env: Mapping[str, str] | None = None) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, env={**os.environ, **(env or {})}).stdout


def test_dpkg_reads_it(package: Path, tmp_path: Path) -> None:
    needs("dpkg-deb")
    said = told("dpkg-deb", "--show", "--showformat=${Package}|${Version}|${Architecture}|${Depends}", package)
    assert said == f"tart-agent|{debian_version()}|all|python3 (>= 3.8)"
    told("dpkg-deb", "--raw-extract", package, tmp_path / "tree")
    lines = (tmp_path / "tree" / "DEBIAN" / "md5sums").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    root = tmp_path / "tree"
    files = {
        str(path.relative_to(root)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and "DEBIAN" not in path.parts
    }
    assert sums == files
    program = root / PACKAGED_FILE.lstrip("/")
    assert told(sys.executable, "-I", program, "--version") == "tart-agent 1\n"
    assert program.stat().st_mode & 0o777 == 0o755
    assert f"ExecStart={PACKAGED_FILE}\n" in (root / "usr/lib/systemd/system/tart-agent.service").read_text()


def test_it_is_the_same_every_time_and_tells_the_time_it_is_told(tmp_path: Path) -> None:
    when = {"SOURCE_DATE_EPOCH": "1600000000"}
    made = Path(told(SCRIPT, tmp_path, env=when).strip())
    assert made.read_bytes() == agent_package(made=1_600_000_000)[1] != agent_package()[1]
    assert made == tmp_path / agent_package()[0]


@pytest.mark.parametrize(
    ("version", "debians"),
    [
        ("0.1.0.dev0", "0.1.0~dev0"),
        ("1.2.0a1", "1.2.0~a1"),
        ("1.2.0rc2", "1.2.0~rc2"),
        ("1.2.0", "1.2.0"),
        ("1.2.0.post1", "1.2.0.post1"),
    ],
)
def test_what_comes_before_a_release_sorts_before_it(version: str, debians: str) -> None:
    assert debian_version(version) == debians
    needs("dpkg")
    told("dpkg", "--compare-versions", debians, "gt" if "post" in version else "le", version[:5])


def test_lintian_finds_nothing_new(package: Path) -> None:
    needs("lintian")
    said = told("lintian", "--fail-on=none", "--pedantic", "--display-info", package)
    tags = {line.split()[2] for line in said.splitlines() if line[1:2] == ":"}
    assert tags - set(KNOWN) == set()


@pytest.mark.parametrize("script", ["postinst", "postrm"])
def test_its_scripts_are_sound(package: Path, script: str) -> None:
    needs("shellcheck")
    needs("dpkg-deb")
    text = told("dpkg-deb", "--info", package, script)
    subprocess.run(["shellcheck", "-"], input=text, text=True, check=True)
