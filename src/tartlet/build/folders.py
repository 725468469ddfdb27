"""Folders that the caller names and this part makes."""

from __future__ import annotations

from pathlib import Path

from tartlet.errors import FileTrouble


def made_folder(folder: Path) -> Path:
    """The folder, made when missing. Raises FileTrouble."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise FileTrouble("cannot make", folder, exc) from exc
    return folder
