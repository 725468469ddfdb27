"""For the verbs that move images."""

from __future__ import annotations

from pathlib import Path

import pytest

from pulls import noisy_disk
from registry_fixtures import before, registry_host, repository

__all__ = ["before", "disk", "registry_host", "repository"]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return noisy_disk(tmp_path / "disk.img")
