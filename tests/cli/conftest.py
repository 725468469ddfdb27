"""A registry for the verbs that move images, with a front before it that counts and breaks things."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from pulls import noisy_disk
from registries import Front, front, real_registry
from tartlet.image.registry import Repository, opened


@pytest.fixture(scope="session")
async def registry(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[str]:
    async with real_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
async def before(registry: str) -> AsyncGenerator[Front]:
    async with front(registry) as state:
        yield state


@pytest.fixture
async def repository(before: Front, tmp_path: Path) -> AsyncGenerator[Repository]:
    async with opened(insecure=True, environment={"HOME": str(tmp_path)}) as registries:
        yield registries.repository(before.host, f"tests/vm-{os.urandom(6).hex()}")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return noisy_disk(tmp_path / "disk.img")
