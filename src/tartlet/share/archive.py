"""`--dir` with the address of an archive: downloaded, unpacked for one run, and gone after it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tartlet.build.download import downloaded
from tartlet.build.download_cache import file_name, shown
from tartlet.build.progress import Progress
from tartlet.errors import InvalidArgument, UserError
from tartlet.host.paths import Home
from tartlet.host.process import run
from tartlet.host.scratch import scratch_folder


class ArchiveFailed(InvalidArgument):
    """An archive that cannot be had or unpacked."""

    def __init__(self, url: str, cause: UserError) -> None:
        super().__init__(f"--dir {shown(url)}: {cause}", cause.hint)
        self.url = url


@asynccontextmanager
async def unpacked(url: str, home: Home, announce: Callable[[str], None]) -> AsyncGenerator[Path]:
    """The content of an archive (tar, compressed or not) as a folder, for the length of the block.

    It is downloaded once; whoever wants a newer one prunes the kept one. Nothing in it gets out of the folder, and all
    of it belongs to the caller. Raises ArchiveFailed.
    """
    with scratch_folder(home.tmp, ending=".volume") as folder:
        try:
            await _fill(folder, url, home, announce)
        except UserError as exc:
            raise ArchiveFailed(url, exc) from exc
        yield folder


async def _fill(folder: Path, url: str, home: Home, announce: Callable[[str], None]) -> None:
    archive = await downloaded(url, cache=home.cache / "downloads", report=_stages(announce), ask=False)
    announce(f"unpacking {file_name(url)}...")
    # tar leaves out what is absolute or leads upwards, and makes links that lead out last of all.
    words = ("tar", "-x", "-f", archive, "-C", folder, "--no-same-owner", "--no-same-permissions")
    await run(*words, env={"TAR_OPTIONS": ""})


def _stages(announce: Callable[[str], None]) -> Callable[[Progress], None]:
    told: set[str] = set()

    def report(progress: Progress) -> None:
        if progress.stage not in told:
            told.add(progress.stage)
            announce(f"{progress.stage}...")

    return report
