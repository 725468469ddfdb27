"""A guest's disk from a distribution's packages, built once for each recipe."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path

from tartlet.build import requirements
from tartlet.build.disk_image import make_disk
from tartlet.build.distro_cache import following, found, keep, work_folder
from tartlet.build.folders import made_folder
from tartlet.build.progress import Progress, Report, silent
from tartlet.build.recipe import Recipe, recipe_for
from tartlet.build.root_folder import make_root
from tartlet.host import access_time
from tartlet.host.locks import kept_from_removal


async def from_distro(
    name: str, *, cache: Path, architecture: str | None = None, rebuild: bool = False, report: Report = silent
) -> Path:
    """The raw disk of a guest made of a distribution's packages, such as `debian:bookworm`. Never change that file.

    `cache` is a folder of this host, made when missing. A disk built there before from the same recipe is given
    back at once, unless `rebuild` asks for the packages of today. `architecture` is the kernel's or Debian's name
    of it, this machine's by default. Raises InvalidArgument, CannotBuild, CannotEmulate, NoNamespace, ToolFailed,
    FileTrouble.
    """
    recipe = recipe_for(name, architecture)
    if not rebuild and (disk := _cached(cache, recipe, report)):
        return disk
    made_folder(cache)
    await requirements.check(recipe, cache)
    async with following(cache, recipe, report):
        # Whoever held the lock before us has built just what we want.
        if not rebuild and (disk := _cached(cache, recipe, report)):
            return disk
        return await _build(recipe, cache, report)


async def held_guest(held: ExitStack, name: str, *, cache: Path, architecture: str, report: Report = silent) -> Path:
    """The same disk, marked as used now and kept from being pruned as long as `held` is open."""
    while True:
        disk = await from_distro(name, cache=cache, architecture=architecture, report=report)
        with suppress(FileNotFoundError):  # pruned just now: it is built again
            held.enter_context(kept_from_removal(disk.parent))
            access_time.mark(disk.parent)
            return disk


def _cached(cache: Path, recipe: Recipe, report: Report) -> Path | None:
    disk = found(cache, recipe)
    if disk:
        report(Progress("found the guest in the cache"))
    return disk


async def _build(recipe: Recipe, cache: Path, report: Report) -> Path:
    async with work_folder(cache) as work:
        root = await make_root(recipe, work, report)
        result = work / "result"
        result.mkdir()
        await make_disk(recipe, root, work / "esp", result / "disk.img", report)
        return keep(result, cache, recipe)
