"""Whatever keeps a file from being written is told with something that can be done about it."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ordinary_user import NOBODY
from tartlet.errors import FileTrouble
from tartlet.host.copying import sparse_copy
from tartlet.host.trouble import NoSpace, trouble_writing
from tartlet.units import MIB


def hint_of_copy(source: Path, target: Path) -> str:
    """What is advised when `source` cannot be copied to `target`, of which nothing stays."""
    source.write_bytes(bytes(range(256)) * 8192)
    with pytest.raises(FileTrouble, match=f"cannot write {target}: ") as caught:
        sparse_copy(source, target)
    assert not target.exists()
    return caught.value.hint or ""


@contextmanager
def cannot_be_changed(folder: Path) -> Generator[None]:
    subprocess.run(["chattr", "+i", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)


@contextmanager
def mounted_read_only(folder: Path) -> Generator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def without_rights(folder: Path) -> Generator[None]:
    """Be an ordinary user, to whom the folder does not belong."""
    assert folder.stat().st_uid != NOBODY
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def limited_to(size: int) -> Generator[None]:
    """No file may become larger than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(bytes(2 * MIB))
    with limited_to(MIB), pytest.raises(FileTrouble, match="File too large") as caught:
        sparse_copy(source, tmp_path / "b")
    assert "ulimit -f" in (caught.value.hint or "")


@pytest.mark.needs_root
def test_a_read_only_file_system(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with mounted_read_only(folder):
        assert "mounted read-only" in hint_of_copy(tmp_path / "a", folder / "b")


@pytest.mark.needs_root
def test_a_folder_that_cannot_be_changed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with cannot_be_changed(folder):
        assert "lsattr" in hint_of_copy(tmp_path / "a", folder / "b")


@pytest.mark.needs_root
def test_a_folder_of_another_user(tmp_path: Path) -> None:
    with without_rights(tmp_path), pytest.raises(FileTrouble, match="Permission denied") as caught:
        sparse_copy("/dev/null", tmp_path / "b")
    assert "chown" in (caught.value.hint or "")


@pytest.mark.parametrize(("number", "word"), [(errno.EDQUOT, "quota"), (errno.ENOSPC, "free some space")])
def test_no_room(number: int, word: str) -> None:
    trouble = trouble_writing("file", OSError(number, os.strerror(number)))
    assert isinstance(trouble, NoSpace)
    assert word in (trouble.hint or "")
    assert "tart prune" in (trouble.hint or "")
