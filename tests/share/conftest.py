"""The virtiofsd of a test: each that this host has, one after the other."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tartlet.share import virtiofsd

RUST = next(filter(None, [shutil.which("virtiofsd"), shutil.which("virtiofsd", path="/usr/libexec")]), None)


@pytest.fixture(params=["C", "Rust"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """One of the two programs, made the preferred one."""
    path = {"C": "/usr/lib/qemu/virtiofsd", "Rust": RUST}[request.param]
    if path is None or not os.access(path, os.X_OK):
        pytest.skip(f"the virtiofsd written in {request.param} is not here")
    descriptors = tmp_path / "config" / "qemu" / "vhost-user"
    descriptors.mkdir(parents=True)
    (descriptors / "10-own.json").write_text(json.dumps({"type": "fs", "binary": path}))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    found = virtiofsd.find()
    assert (found.path, found.in_rust) == (path, request.param == "Rust")
    return str(request.param)
