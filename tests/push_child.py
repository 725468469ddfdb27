"""A process that pushes a disk and is killed at one of its reports: FOLDER IMAGE DISK PIECE_SIZE REPORT."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio

from cached_images import CONFIG
from tartlet.image.format.manifest import oci_config
from tartlet.image.format.reference import parse
from tartlet.image.format.source import raw_disk
from tartlet.image.progress import TransferProgress
from tartlet.image.push.plan import targets_of
from tartlet.image.push.push import PushSource, push_image
from tartlet.image.registry.registry import opened


async def main() -> None:
    folder, image, disk, piece_size, at = sys.argv[1:]
    reports = 0

    def report(progress: TransferProgress) -> None:
        nonlocal reports
        reports += progress.total is not None
        if reports == int(at):
            os.kill(os.getpid(), signal.SIGKILL)

    async with opened(insecure=True, environment={"HOME": folder}) as registries:
        with raw_disk(disk) as raw:
            stub = oci_config(architecture="amd64", system="linux", disk_format="raw")
            source = PushSource(vm_config=CONFIG, oci_config=stub, nvram=b"nvram", disk=raw)
            targets, scratch = targets_of([parse(image)]), Path(folder)
            await push_image(
                registries, targets, source, scratch=scratch, at_once=2, piece_size=int(piece_size), report=report
            )


if __name__ == "__main__":
    anyio.run(main)
