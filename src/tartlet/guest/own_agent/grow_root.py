#!/usr/bin/python3 -I
"""Grows the root file system of a guest to the end of its disk, where that was made larger. Python 3.8, nothing else.

The agent runs it at its own start and when a disk changes its size. It only ever grows, only the last partition of a
disk, and it does the work by the guest's own tools: growpart or sfdisk for the partition, resize2fs, xfs_growfs or
btrfs for what is in it. Nothing happens, and the log says why, where one of them is missing.

    grow-root [MOUNT-POINT]
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

SWITCH = "/etc/tart-agent/keep-partitions"
"""While this file exists nothing is grown."""

_SECTOR = 512
"""Bytes in which /sys counts, whatever the disk's own sectors are."""
_LEAST = 4 << 20
"""Bytes that are worth growing for; a second partition table and the alignment of partitions need less."""
_FULL = 0.9
"""Of a device: a file system that knows of less than this part of it has room to grow into."""


class Stopped(Exception):
    """Why nothing is grown, for the log."""


class Root:
    """The mounted file system and the block device that it is on."""

    def __init__(self, mount_point: str) -> None:
        self.mount_point = mount_point
        self.kind, source, number = mounted_at(mount_point)
        if not source.startswith("/dev/") or not os.path.exists(source):  # /dev/root of a kernel without an initramfs
            source = "/dev/block/" + number
        self.device = os.path.realpath(source)
        self._folder = os.path.realpath("/sys/class/block/" + os.path.basename(self.device))
        if not os.path.isdir(self._folder):
            raise Stopped(f"{mount_point} is on no block device")

    def is_partition(self) -> bool:
        return os.path.exists(self._folder + "/partition")

    def is_made_of_others(self) -> bool:
        """Whether it is a logical volume or the like: what that grows into is for others to decide."""
        slaves = self._folder + "/slaves"
        return os.path.isdir(slaves) and bool(os.listdir(slaves))

    def size(self) -> int:
        """Bytes of the device."""
        return self._number("size") * _SECTOR

    def known(self) -> int:
        """Bytes that the file system knows of."""
        told = os.statvfs(self.mount_point)
        return told.f_blocks * told.f_frsize

    def room_behind(self) -> int:
        """Bytes between the partition and the end of its disk; none when something else is there."""
        disk = os.path.dirname(self._folder)
        start, end = self._number("start"), self._number("start") + self._number("size")
        for name in os.listdir(disk):
            if os.path.exists(f"{disk}/{name}/partition") and _number(f"{disk}/{name}/start") > start:
                return 0
        return (_number(disk + "/size") - end) * _SECTOR

    def place(self) -> tuple[str, str]:
        """The disk's device and the partition's number in it."""
        return "/dev/" + os.path.basename(os.path.dirname(self._folder)), str(self._number("partition"))

    def _number(self, name: str) -> int:
        return _number(f"{self._folder}/{name}")


def _number(path: str) -> int:
    with open(path) as file:
        return int(file.read())


def mounted_at(mount_point: str) -> tuple[str, str, str]:
    """Kind of the file system, its source and its device's number, by proc(5). Raises Stopped."""
    found = None
    with open("/proc/self/mountinfo") as file:
        for line in file:
            words, _, rest = line.partition(" - ")
            if words.split(" ")[4] == mount_point:  # the last one is on top
                found = rest.split(" ")[0], rest.split(" ")[1], words.split(" ")[2]
    if found is None:
        raise Stopped(f"nothing is mounted at {mount_point}")
    return found


def grow(mount_point: str) -> None:
    """Grow what is mounted there. Raises Stopped."""
    root = Root(mount_point)
    if root.is_made_of_others():
        return
    before = root.size()
    if root.is_partition() and root.room_behind() >= _LEAST:
        _wait_for_cloud_init()
        if root.room_behind() >= _LEAST:
            _grow_partition(*root.place())
            _say(f"{root.device} grew from {before} to {root.size()} bytes")
    if root.size() > before or root.known() < root.size() * _FULL:
        _grow_file_system(root)


def _wait_for_cloud_init() -> None:
    """It grows the root itself, if it is there and was not told otherwise, and two must not do so at once."""
    if os.path.isdir("/run/cloud-init") and shutil.which("cloud-init"):
        try:
            subprocess.run(["cloud-init", "status", "--wait"], stdout=subprocess.DEVNULL, timeout=600, check=False)
        except subprocess.TimeoutExpired as exc:
            raise Stopped("cloud-init does not come to an end") from exc


def _grow_partition(disk: str, number: str) -> None:
    if shutil.which("growpart"):
        _run("growpart", disk, number, good=(0, 1))  # 1: it finds nothing to grow
    elif shutil.which("sfdisk"):  # which moves the second partition table of a GPT, too
        _run("sfdisk", "--quiet", "--force", "--no-reread", "--no-tell-kernel", "-N", number, disk, said=", +\n")
        _run("partx", "--update", "--nr", number, disk)
    else:
        raise Stopped("the disk is larger than its partitions, and neither growpart nor sfdisk is installed")


def _grow_file_system(root: Root) -> None:
    before = root.known()
    if root.kind in ("ext2", "ext3", "ext4"):
        _run("resize2fs", root.device)
    elif root.kind == "xfs":
        _run("xfs_growfs", root.mount_point)
    elif root.kind == "btrfs":
        _run("btrfs", "filesystem", "resize", "max", root.mount_point)
    else:
        raise Stopped(f"file systems of the kind {root.kind} are not grown")
    if root.known() != before:
        _say(f"{root.mount_point} has {root.known()} bytes now")


def _run(*words: str, said: str = "", good: Iterable[int] = (0,)) -> None:
    try:
        done = subprocess.run(
            words, input=said, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except FileNotFoundError as exc:
        raise Stopped(words[0] + " is not installed") from exc
    if done.returncode not in good:
        told = "; ".join(done.stdout.strip().split("\n"))
        raise Stopped(f"{' '.join(words)}: {told or f'exit status {done.returncode}'}")


def _say(text: str) -> None:
    sys.stderr.write(f"tart-agent: {text}\n")


def main(words: list[str]) -> int:
    """Grow, or say why not."""
    os.environ.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if os.path.exists(SWITCH):
        return 0
    try:
        mount_point = words[0] if words else "/"
        lock = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)  # until this process ends: another one may be at it
        grow(mount_point)
    except (Stopped, OSError) as exc:
        _say(f"the root is not grown: {exc}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
