"""Built disks under their recipe's digest: `<digest>/disk.img` beside the `recipe.json` that explains it.

An entry appears by one rename, complete and on the medium. `.work` holds the builds that are under way; what a
killed build leaves there is deleted by the next one. `.<digest>.lock` is held while a recipe is being followed.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import anyio

from tartlet.build.folders import made_folder
from tartlet.build.progress import Progress, Report
from tartlet.build.recipe import Recipe
from tartlet.build.sandbox import boxed
from tartlet.errors import FileTrouble, ToolFailed
from tartlet.host.files import exchange, removed, sync_folder, write_new
from tartlet.host.locks import LockTrouble, try_file_lock
from tartlet.host.process import run
from tartlet.host.scratch import scratch_folder

_POLL = 0.2
"""Seconds between two looks at another builder's lock."""


def found(cache: Path, recipe: Recipe) -> Path | None:
    """The disk built from this recipe earlier."""
    disk = cache / recipe.digest / "disk.img"
    return disk if disk.is_file() else None


def kept_guests(cache: Path) -> Iterator[tuple[Path, str]]:
    """The folders of the built guests, each with what it is, in words: `debian:bookworm amd64`. Raises FileTrouble."""
    try:
        folders = sorted(cache.iterdir())
    except FileNotFoundError:
        return
    except OSError as exc:
        raise FileTrouble("cannot list", cache, exc) from exc
    for folder in folders:
        if not folder.name.startswith(".") and (folder / "disk.img").is_file():
            yield folder, _told(folder)


def _told(folder: Path) -> str:
    try:
        recipe = json.loads((folder / "recipe.json").read_bytes())
        return f"{recipe['distribution']}:{recipe['codename']} {recipe['architecture']}"
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name


def keep(folder: Path, cache: Path, recipe: Recipe) -> Path:
    """Make `folder`, with a finished `disk.img`, the cache's entry of this recipe; gives the disk's new place.

    An older entry is replaced in one step. Raises FileTrouble.
    """
    target = cache / recipe.digest
    try:
        (folder / "disk.img").chmod(0o444)
        write_new(folder / "recipe.json", json.dumps(asdict(recipe), indent=2).encode() + b"\n")
        sync_folder(folder)
        if target.exists():
            exchange(folder, target)
            removed(folder)
        else:
            folder.rename(target)
        sync_folder(cache)
    except OSError as exc:
        raise FileTrouble("cannot keep the built guest in", target, exc) from exc
    return target / "disk.img"


@asynccontextmanager
async def following(cache: Path, recipe: Recipe, report: Report) -> AsyncGenerator[None]:
    """Be the only one that follows this recipe, waiting for another who does. Raises FileTrouble, LockTrouble."""
    path = cache / f".{recipe.digest}.lock"
    try:
        path.touch()
    except OSError as exc:
        raise FileTrouble("cannot make", path, exc) from exc
    told = False
    while (descriptor := try_file_lock(path)) is None:
        if not told:
            report(Progress("waiting for another build of the same guest"))
            told = True
        await anyio.sleep(_POLL)
    try:
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def work_folder(cache: Path) -> AsyncGenerator[Path]:
    """A folder to build in, on the file system of the cache; what it has at the end is deleted. Raises FileTrouble."""
    place = made_folder(cache / ".work")
    for leftover in _unlocked(place):
        await discard(leftover)
        removed(leftover)
    with scratch_folder(place) as folder:
        try:
            yield folder
        finally:
            with anyio.CancelScope(shield=True):
                await discard(folder)


async def discard(folder: Path) -> None:
    """Empty a work folder; files of subordinate ids need root of the namespace. Raises ToolFailed."""
    patience = 20
    while names := os.listdir(folder):
        try:
            await run(*boxed("rm", "-rf", "--", *(folder / name for name in names)))
        except ToolFailed:
            # A build that was interrupted a moment ago may still be dying, and until then it makes files.
            patience -= 1
            if not patience:
                raise
            await anyio.sleep(0.1)


def _unlocked(place: Path) -> Iterator[Path]:
    """The work folders that killed builds have left, each locked while the caller has it."""
    for folder in sorted(place.iterdir()):
        try:
            descriptor = try_file_lock(folder)
        except LockTrouble:
            if folder.exists():
                raise
            continue  # its owner just finished
        if descriptor is not None:
            try:
                yield folder
            finally:
                os.close(descriptor)
