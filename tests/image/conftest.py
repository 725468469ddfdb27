"""A registry for the tests of this folder, and certificates."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from registry_fixtures import before, no_waiting, registry_host, repository

__all__ = ["before", "no_waiting", "registry_host", "repository"]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates that nobody else vouches for, and their keys: for 127.0.0.1, and for another."""
    folder = tmp_path_factory.mktemp("certificates")
    for name, subject in (("ours", "IP:127.0.0.1"), ("other", "DNS:registry.example")):
        words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests"]
        files = ["-out", f"{name}.pem", "-keyout", f"{name}.key", "-addext", f"subjectAltName={subject}"]
        subprocess.run([*words, *files], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder
