"""What the size of a piece does to an image: its manifest, its requests, and what a change of the disk costs.

    .venv/bin/python benchmarks/piece_size.py [OLD NEW]

OLD and NEW are two raw disks, before and after; without them a disk of 2 GiB is changed at 200 places, 64 KiB each, and
at ten places, 10 MB each. Nothing is sent and nothing depends on the speed of the machine.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tartlet.image.format.layers import PieceEncoder, Region, cut
from tartlet.image.format.manifest import blob_descriptor, flat_manifest, piece_descriptor
from tartlet.image.format.source import DiskSource, raw_disk
from tartlet.units import GB, GIB, MIB

SIZES = (16, 32, 64, 128, 512)
UNIT = 65536
DIGEST = "sha256:" + 64 * "0"


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("disks", nargs="*", type=Path, metavar="OLD NEW")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        for what, old, new in disks(asked.disks, Path(place)):
            with raw_disk(old) as before, raw_disk(new) as after:
                changed = changes(before, after)
                print(f"{what}: {len(changed) * UNIT / MIB:.0f} MiB of {after.size / MIB:.0f} MiB differ")
                for size in SIZES:
                    touched = [part for part in cut(after.size, size * MIB) if touches(part.offset, part.end, changed)]
                    sent = sum(coded(after, part.offset, part.end) for part in touched)
                    print(f"  {size:4} MiB: {len(touched):4} pieces touched, {sent / MIB:6.0f} MiB to send")
    for size in SIZES:
        layers = len(cut(50 * GB, size * MIB))
        print(f"{size:4} MiB: {layers:5} layers, a manifest of {manifest(size) / 1000:.0f} kB for 50 GB")


def disks(given: Sequence[Path], place: Path) -> list[tuple[str, Path, Path]]:
    if given:
        return [("given disks", given[0], given[1])]
    old = place / "old"
    noise = random.Random(1)
    with old.open("wb") as file:
        for _ in range(2048):
            file.write(noise.randbytes(MIB // 2) + bytes(MIB // 2))
    scattered = [(noise.randrange(2 * GIB // UNIT) * UNIT, UNIT) for _ in range(200)]
    blocks = [(part * 2 * GIB // 10, 10_000_000) for part in range(10)]
    return [
        ("200 x 64 KiB", old, changed_copy(old, place / "scattered", scattered)),
        ("10 x 10 MB", old, changed_copy(old, place / "blocks", blocks)),
    ]


def changed_copy(old: Path, new: Path, places: Sequence[tuple[int, int]]) -> Path:
    new.write_bytes(old.read_bytes())
    with new.open("r+b") as file:
        for at, size in places:
            file.seek(at)
            file.write(random.randbytes(size))
    return new


def changes(before: DiskSource, after: DiskSource) -> list[int]:
    """Places, in units, where two disks differ; what one does not have counts as zeros."""
    found: list[int] = []
    for at in range(0, after.size, MIB):
        size = min(MIB, after.size - at)
        old = (
            before.read(at, max(0, min(size, before.size - at))).ljust(size, b"\0") if at < before.size else bytes(size)
        )
        new = after.read(at, size)
        if old != new:
            found += [
                at // UNIT + n for n in range(-(-size // UNIT)) if old[n * UNIT :][:UNIT] != new[n * UNIT :][:UNIT]
            ]
    return found


def touches(start: int, end: int, changed: Sequence[int]) -> bool:
    return any(start < (unit + 1) * UNIT and unit * UNIT < end for unit in changed)


def coded(disk: DiskSource, start: int, end: int) -> int:
    encoder = PieceEncoder(disk, Region(start, end - start))
    while encoder.step():
        pass
    return encoder.descriptor.size


def manifest(size: int) -> int:
    """Bytes of the manifest of a disk of 50 GB."""
    pieces = [
        piece_descriptor(digest=DIGEST, size=size * MIB // 2, content_digest=DIGEST, content_size=part.size)
        for part in cut(50 * GB, size * MIB)
    ]
    small = blob_descriptor("application/vnd.cirruslabs.tart.config.v1", b"")
    made = flat_manifest(
        vm_config=small, disk=pieces, nvram=small, oci_config=small, disk_size=50 * GB, uploaded=datetime.now(UTC)
    )
    return len(made.encoded())


if __name__ == "__main__":
    main()
