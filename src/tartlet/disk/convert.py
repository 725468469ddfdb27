"""Turn foreign disk images into raw ones, and a VM's layers into one flat disk.

The format of a foreign image is recognised here and told to qemu-img, which therefore never guesses. Images whose
content lies in other files (bases, extents, data files) are refused: their headers could name any file of this host,
and its content would end up in the guest.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL
from tempfile import TemporaryFile
from typing import Any

import anyio

from tartlet.disk import qcow2
from tartlet.disk.chain import Chain
from tartlet.disk.model import Disk, DiskFormat
from tartlet.errors import ToolFailed, ToolMissing, UserError
from tartlet.host.process import run, started
from tartlet.host.trouble import trouble_writing

Progress = Callable[[int], None]

_PERCENT = re.compile(rb"\((\d+\.\d+)/100%\)")


class UnsupportedImage(UserError):
    """A disk image that is not taken, and why."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"the image {path} cannot be used: {why}")
        self.hint = "qcow2, raw, vmdk and vdi images are read, if they are whole in one file"


async def convert_to_raw(source: Path, target: Path, progress: Progress | None = None) -> Disk:
    """Write the content of the image `source` (qcow2, raw, vmdk, vdi) as the new raw, sparse file `target`.

    `progress` gets bytes of the guest's disk as they are done, and their sum is its size. Ended early, no target is
    left. Raises UnsupportedImage, DamagedDisk, NoSpace, FileTrouble, ToolMissing, ToolFailed.
    """
    kind = image_format(source)
    size = await _checked_size(source, kind)
    await _convert(["-f", kind, _word(source)], target, size, progress)
    return Disk(path=target, format=DiskFormat.RAW, size=size)


async def flatten(chain: Chain, target: Path, progress: Progress | None = None) -> Disk:
    """Write what the guest of a VM that does not run sees as the new raw, sparse file `target`. As `convert_to_raw`."""
    top = chain.top
    if top.format is DiskFormat.ASIF:
        raise UnsupportedImage(top.path, "asif images are only read on macOS")
    size = qcow2.rounded(top.size)
    await _convert(["-f", top.format, _word(top.path)], target, size, progress)
    return Disk(path=target, format=DiskFormat.RAW, size=size)


def image_format(path: Path) -> str:
    """QEMU's word for the format of a foreign image; what has no known mark is raw.

    Raises UnsupportedImage, DamagedDisk, FileTrouble. Sources: QEMU's docs/interop/qcow2.txt; VMware's Virtual Disk
    Format 5.0; VirtualBox's VDICore.h.
    """
    start, length = qcow2.read(path)
    header = qcow2.parse(start, path)
    if header:
        if header.backing_name is not None:
            raise UnsupportedImage(path, f"it stands on another file, {header.backing_name!r}")
        if header.data_file:
            raise UnsupportedImage(path, "it keeps its data in another file")
        return "qcow2"
    if start.startswith(b"KDMV"):
        if not int.from_bytes(start[12:20], "little"):
            raise UnsupportedImage(path, "it only describes other files")
        return "vmdk"
    if start[0x40:0x44] == b"\x7f\x10\xda\xbe":
        return "vdi"
    _refuse_others(path, start, length)
    return "raw"


def _refuse_others(path: Path, start: bytes, length: int) -> None:
    if re.match(rb"\s*#\s*disk descriptorfile", start, re.IGNORECASE):
        raise UnsupportedImage(path, "it only describes other files")
    if not length:
        raise UnsupportedImage(path, "it is empty")
    for mark, name in (
        (b"shdw", "asif"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vhd"),
        (b"COWD", "an old vmdk"),
        (b"\x1f\x8b", "gzip"),
        (b"\xfd7zXZ", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
        (b"PK\x03\x04", "zip"),
    ):
        if start.startswith(mark):
            raise UnsupportedImage(path, f"its format is {name}")


async def _checked_size(source: Path, kind: str) -> int:
    """Bytes the guest will see, after QEMU's own reading of the header was looked through for other files."""
    told: dict[str, Any] = json.loads(
        await run("qemu-img", "info", "-f", kind, "--output=json", _word(source), env={"LC_ALL": "C"})
    )
    details: dict[str, Any] = told.get("format-specific", {}).get("data", {})
    others = [told.get("backing-filename"), told.get("full-backing-filename"), details.get("data-file")]
    others += [extent.get("filename") for extent in details.get("extents", ())]
    foreign = [str(other) for other in others if other and str(other) != _word(source)]
    if foreign:
        raise UnsupportedImage(source, f"it needs another file, {foreign[0]!r}")
    await _refuse_damaged(source, kind)
    return int(told["virtual-size"])


async def _refuse_damaged(source: Path, kind: str) -> None:
    """A download that was cut short converts without a complaint: what lies behind the end reads as zeros."""
    if kind in ("qcow2", "vmdk"):
        try:
            await run("qemu-img", "check", "-q", "-f", kind, _word(source))
        except ToolFailed as exc:
            if exc.exit_status not in (3, 63):  # clusters nobody uses; a variant that cannot be checked
                raise UnsupportedImage(source, "it is damaged or cut short") from exc
    elif kind == "vdi" and _vdi_is_short(source):
        raise UnsupportedImage(source, "it is cut short")


def _vdi_is_short(source: Path) -> bool:
    """VDI version 1.1: offset of the data, bytes of a block, blocks allocated; qemu-img does not compare them."""
    start, length = qcow2.read(source)
    data, block, allocated = (int.from_bytes(start[at : at + 4], "little") for at in (0x158, 0x178, 0x184))
    return length < data + block * allocated


async def _convert(source: list[str], target: Path, size: int, progress: Progress | None) -> None:
    _claim(target)
    words = ["qemu-img", "convert", "-p", "-O", "raw", *source, _word(target)]
    try:
        await _run_with_progress(words, size, progress or (lambda _: None))
        await anyio.to_thread.run_sync(_sync, target)
    except BaseException as exc:
        with suppress(FileNotFoundError):
            os.unlink(target)
        if isinstance(exc, ToolFailed) and "No space left" in exc.stderr:
            raise trouble_writing(target, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from exc
        raise


def _word(path: Path) -> str:
    """Absolute, because qemu-img takes what stands before a colon in a relative path for a protocol."""
    return os.path.abspath(path)


def _claim(target: Path) -> None:
    """Make sure that no other file is overwritten."""
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    except OSError as exc:
        raise trouble_writing(target, exc) from exc


async def _run_with_progress(words: list[str], size: int, progress: Progress) -> None:
    """Run qemu-img, which prints `(12.34/100%)` again and again. It is killed and reaped when this is cancelled."""
    done = 0
    with TemporaryFile() as stderr:  # read when it is all there; a pipe would need a second reader
        try:
            process = await started(words, stdin=DEVNULL, stderr=stderr, env={**os.environ, "LC_ALL": "C"})
        except FileNotFoundError as exc:
            raise ToolMissing(words[0]) from exc
        async with process:
            assert process.stdout
            async for piece in process.stdout:
                for percent in _PERCENT.findall(piece):
                    now = int(size * float(percent) / 100)
                    progress(max(0, now - done))
                    done = max(done, now)
        if process.returncode:
            stderr.seek(0)
            raise ToolFailed(words, process.returncode, stderr.read().decode(errors="replace"))
    progress(size - done)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
