"""What takes long to make and is only copied: the first worker that needs it makes it, for all that test at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tartlet.host.files import removed
from tartlet.host.locks import file_lock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` of this run, which `make` fills unless another worker has; who comes meanwhile waits."""
    base = factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, whole, lock = (run / f"{name}{ending}" for ending in ("", ".whole", ".lock"))
    lock.touch()
    with file_lock(lock):
        if not whole.exists():
            removed(folder)
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder
