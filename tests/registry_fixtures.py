"""A registry, a front before it that counts and breaks things, and a new repository there, for several folders."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from registries import Front, front, real_registry
from tartlet.image.registry import pace
from tartlet.image.registry.registry import Repository, opened


@pytest.fixture(scope="session")
async def registry_host(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[str]:
    """Host and port of a registry without a login."""
    async with real_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
async def before(registry_host: str) -> AsyncGenerator[Front]:
    """What stands before the registry, for one test."""
    async with front(registry_host) as state:
        yield state


@pytest.fixture
async def repository(before: Front, tmp_path: Path) -> AsyncGenerator[Repository]:
    """A repository that is new, reached through the front."""
    async with opened(insecure=True, environment={"HOME": str(tmp_path)}) as registries:
        yield registries.repository(before.host, f"tests/vm-{os.urandom(6).hex()}")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(pace, "_FIRST_DELAY", 0.001)
