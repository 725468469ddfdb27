"""What the tests of pulling share: a disk of known content, and looks at what came of it."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

from pushed_images import disk_file
from registries import Front
from tartlet.host.paths import Home
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.reference import parse
from tartlet.image.registry.registry import Repository
from tartlet.units import MIB

NOISE = random.Random(11).randbytes(12 * MIB)
PIECE = MIB


def noisy_disk(path: Path) -> Path:
    """Twelve pieces of noise, four of zeros between them, and half a one of zeros at the end."""
    return disk_file(path, 16 * MIB + MIB // 2, {0: NOISE[: 6 * MIB], 10 * MIB: NOISE[6 * MIB :]})


def named(repository: Repository, tag: str = "one") -> str:
    """The name of an image as a user types it."""
    return f"{repository.base.host}:{repository.base.port}/{repository.namespace}:{tag}"


def cache_of(home: Path) -> ImageCache:
    """The images in the home of a command."""
    return ImageCache(Home(home))


def cached_disk(home: Path, name: str) -> Path:
    """The disk of a cached image."""
    return cache_of(home).find(parse(name)).disk_path


def same(one: Path, other: Path) -> bool:
    """Whether two files have the same content."""
    return subprocess.run(["cmp", one, other], check=False).returncode == 0


def blobs_got(before: Front) -> list[str]:
    """The blobs that were asked for, in order."""
    return [one.path for one in before.seen if one.method == "GET" and re.search("/blobs/sha256", one.path)]
