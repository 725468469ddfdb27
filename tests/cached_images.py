"""Images in a cache, made without a registry."""

from __future__ import annotations

from pathlib import Path

from tartlet.host.paths import Home
from tartlet.host.scratch import scratch_folder
from tartlet.image.cache.cache import ImageCache
from tartlet.image.cache.cached_image import CachedImage
from tartlet.image.format.manifest import digest_of
from tartlet.image.format.reference import ImageName, parse

CONFIG = (
    b'{"version":1,"os":"linux","arch":"amd64","cpuCount":1,"cpuCountMin":1,"memorySize":1048576,'
    b'"memorySizeMin":1048576,"macAddress":"7a:65:e4:3f:b2:01"}'
)


def home_in(folder: Path) -> Home:
    """A home, its folders in place."""
    return Home(folder / "home").prepared()


def name(text: str) -> ImageName:
    return parse(text)


def digest(number: int) -> str:
    """A digest that stands for a manifest."""
    return digest_of(str(number).encode())


def put(cache: ImageCache, text: str, number: int, disk: bytes = b"disk" * 4096) -> CachedImage:
    """Install an image with the digest of `number` under a name, as a pull does."""
    with scratch_folder(cache.work_folders()) as folder:
        fill(folder, disk)
        return cache.install(folder, parse(text), digest(number))


def fill(folder: Path, disk: bytes = b"disk" * 4096) -> None:
    """The files of an image."""
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "disk.img").write_bytes(disk)
    (folder / "nvram.bin").write_bytes(b"nvram")
