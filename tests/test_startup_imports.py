"""What a short verb imports stays small (docs/decisions/0006-start-up.md), kept by looking at the imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "aiohttp", "anyio", "asyncio", "google.protobuf", "grpc", "grpclib", "keyring", "msgspec", "opentelemetry",
    "pycdlib", "qemu", "rich", "ssl",
}  # fmt: skip


def imported_by(code: str, home: Path) -> set[str]:
    """Every module that a fresh interpreter has imported after `code`."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "TART_HOME": str(home)},
    )
    rows = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {row.rsplit("|", 1)[1].strip() for row in rows}


@pytest.mark.parametrize(
    "code",
    [
        "import tartlet.cli.main",
        "from tartlet.cli.main import main; main(['--help'])",
        "from tartlet.cli.main import main; main(['list'])",
        "from tartlet.cli.main import main; main(['list', '--format', 'json'])",
    ],
)
def test_a_short_verb_imports_nothing_heavy(code: str, tmp_path: Path) -> None:
    found = imported_by(code, tmp_path)
    assert "tartlet.cli.main" in found
    assert not found & HEAVY


def test_importing_the_package_imports_none_of_its_parts(tmp_path: Path) -> None:
    found = imported_by("import tartlet", tmp_path) - imported_by("pass", tmp_path)
    assert {name for name in found if not name.startswith("tartlet")} == set()
    assert found <= {"tartlet", "tartlet.version"}


def test_a_run_without_a_page_brings_no_http_server(tmp_path: Path) -> None:
    found = imported_by("import tartlet.vm.running.supervisor, tartlet.vm.running.web, tartlet.cli.web", tmp_path)
    assert "tartlet.vm.running.web" in found
    assert not {name for name in found if name.startswith(("aiohttp", "tartlet.web"))}


def test_a_heavy_import_would_be_seen(tmp_path: Path) -> None:
    assert HEAVY & imported_by("import asyncio, tartlet.cli.main", tmp_path) >= {"asyncio"}
