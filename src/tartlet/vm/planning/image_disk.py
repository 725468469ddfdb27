"""The disk of a cached image as one more disk of a running VM: a private copy, which ends with the run."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tartlet.disk.clone import stand_on
from tartlet.disk.model import DISK, Disk, DiskFormat, inspect
from tartlet.errors import UserError
from tartlet.host.paths import Home
from tartlet.host.scratch import scratch_folder
from tartlet.hypervisor.disk_options import DiskArgument
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.layout import StackedImage
from tartlet.image.format.reference import looks_remote, parse
from tartlet.vm.stored.folder import VmFolder, declared_format


class ImageNotCached(UserError):
    """A `--disk` that names an image nobody has pulled."""

    exit_code = 2

    def __init__(self, name: str) -> None:
        super().__init__(
            f'the disk "{name}" is neither a file nor a cached image',
            f"pull it first: tart pull {name}; or write a path with ./ in front if it is a file",
        )


def names_image(argument: DiskArgument) -> bool:
    """Whether a `--disk` means an image: its form is that of an image's name, and no such file exists."""
    return not argument.is_nbd and looks_remote(argument.path) and not Path(argument.path).expanduser().exists()


@contextmanager
def copied_disk(home: Home, text: str) -> Generator[Disk]:
    """A disk with the content of the cached image's, for the length of the block. It shares what it can with the image.

    Raises ImageNotCached, StackedImage, BadImageName, and what `stand_on` raises.
    """
    cache, name = ImageCache(home), parse(text)
    if cache.cached(name) is None:
        raise ImageNotCached(text)
    image = cache.open(name)
    with scratch_folder(cache.work_folders()) as folder:
        with cache.using(image):
            if not image.disk_path.exists():
                raise StackedImage(name)
            made = stand_on(image.disk_path, folder, declared=declared_format(VmFolder(text, image.path)))
        if made.format is DiskFormat.ASIF:
            raise UserError(f"the disk of {name} has the format asif, which only a Mac reads", "use a raw disk")
        yield inspect(folder / DISK, made.format)
