"""A guest's disk from an image that somebody publishes: fetched, checked, unpacked, and made a raw, sparse disk."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path

from tartlet.build.checksum import Checksum, verify
from tartlet.build.download import downloaded, is_address
from tartlet.build.progress import Progress, Report, silent
from tartlet.build.unpack import compression, unpack
from tartlet.disk.convert import UnsupportedImage, convert_to_raw, image_format
from tartlet.disk.model import Disk, DiskFormat
from tartlet.host import access_time
from tartlet.host.locks import kept_from_removal


async def from_image(
    source: str, target: Path, *, cache: Path, checksum: Checksum | None = None, report: Report = silent
) -> Disk:
    """Write the image at a path or address as the new raw, sparse file `target`; gives that disk.

    qcow2, raw, vmdk and vdi are read, also packed by gzip, xz or zstd. Downloads are kept in `cache`; what is
    unpacked stands beside `target` meanwhile, so that should be in a work folder. Raises DownloadFailed,
    ChecksumMismatch, UnpackFailed, UnsupportedImage, DamagedDisk, NoSpace, FileTrouble, InvalidArgument, ToolFailed.
    """
    with ExitStack() as held:
        if is_address(source):
            image = await _held_download(held, source, cache, checksum, report)
        else:
            image = Path(source)
            if checksum:
                await verify(image, checksum, report)
        if compression(image) is None:
            return await _disk_of(image, target, report, ours=False)
        unpacked = target.with_name(f"{target.name}.unpacked")
        held.callback(unpacked.unlink, missing_ok=True)
        await unpack(image, unpacked, report)
        return await _disk_of(unpacked, target, report, ours=True)


async def _held_download(held: ExitStack, url: str, cache: Path, checksum: Checksum | None, report: Report) -> Path:
    """A downloaded file that nobody prunes as long as `held` is open."""
    while True:
        image = await downloaded(url, cache=cache, checksum=checksum, report=report)
        with suppress(FileNotFoundError):  # pruned just now: it is downloaded again
            held.enter_context(kept_from_removal(image))
            access_time.mark(image)
            return image


async def _disk_of(image: Path, target: Path, report: Report, *, ours: bool) -> Disk:
    if image_format(image) == "raw":
        _refuse_what_is_no_disk(image)
        if ours:  # no need of a second copy
            os.rename(image, target)
            return Disk(path=target, format=DiskFormat.RAW, size=os.stat(target).st_size)
    done = 0

    def follow(more: int) -> None:
        nonlocal done
        done += more
        report(Progress("writing the disk", done))

    return await convert_to_raw(image, target, follow)


def _refuse_what_is_no_disk(image: Path) -> None:
    """Anything can be taken for a raw disk, even the page on which a server regrets. Raises UnsupportedImage."""
    with image.open("rb") as file:
        start = file.read(512)
    if start[257:262] == b"ustar":
        raise UnsupportedImage(image, "it is a tar archive; unpack it and give the disk that is in it")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UnsupportedImage(image, "it is a web page")
