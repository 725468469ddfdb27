"""A process that pulls an image and is killed at one of its reports: HOME IMAGE REPORT AT_ONCE.

REPORT is a number, or the share that has to be done: `50%`. 0% is never reached.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path

import anyio

from tartlet.host.paths import Home
from tartlet.image.cache.cache import ImageCache
from tartlet.image.format.reference import parse
from tartlet.image.progress import TransferProgress
from tartlet.image.pull.pull import pull
from tartlet.image.registry.registry import opened


async def main() -> None:
    home, image, at, at_once = sys.argv[1:]
    reports = 0

    def report(progress: TransferProgress) -> None:
        nonlocal reports
        reports += progress.total is not None
        if reports == int(at) if at.isdigit() else is_done(progress):
            os.kill(os.getpid(), signal.SIGKILL)

    def is_done(progress: TransferProgress) -> bool:
        share = int(at.rstrip("%"))
        return 0 < share <= 100 * progress.done / (progress.total or math.inf)

    name = parse(image)
    async with opened(insecure=True, environment={"HOME": home}) as registries:
        repository = registries.repository(name.host, name.namespace)
        await pull(ImageCache(Home(Path(home))), repository, name, at_once=int(at_once), report=report)


if __name__ == "__main__":
    anyio.run(main)
