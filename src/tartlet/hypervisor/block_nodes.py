"""Disks of this host as QEMU's block nodes: image files, block devices, network block devices.

Opening a disk for writing is claimed first, so that two VMs cannot write to one disk: an image file by its file lock,
a block device by an exclusive open, which also refuses what the host has mounted.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from tartlet.errors import FileTrouble, UserError
from tartlet.host.locks import try_file_lock
from tartlet.hypervisor import nbd
from tartlet.hypervisor.devices import BlockDevice
from tartlet.hypervisor.disk_options import (
    AUTOMATIC,
    CACHED,
    NONE,
    SYNC_OF_DEVICES,
    UNCACHED,
    DiskArgument,
    DiskOptions,
)

ROOT_NODE = "block0"
"""The block node of the disk the guest starts from, when it starts."""


class DiskInUse(UserError):
    """A disk somebody else writes to."""

    def __init__(self, path: str, hint: str) -> None:
        super().__init__(f"disk {path} is already in use", hint)
        self.path = path


class DiskNotAllowed(UserError):
    """A disk this user may not open."""

    def __init__(self, path: str, *, read_only: bool) -> None:
        super().__init__(f"no permission to open disk {path} for {'reading' if read_only else 'reading and writing'}")
        self.hint = (
            "change its mode or owner" if read_only else "change its mode or owner, or attach it read-only with :ro"
        )
        self.path = path


def root_disk(path: str, kind: str, options: DiskOptions) -> BlockDevice:
    """The disk a guest starts from. The VM's own lock protects it. Raises UnknownDiskOption.

    `kind` is raw or qcow2. The host's cache is used unless told otherwise.
    """
    return _image(path, kind, options, index=0, caching=options.checked_caching(CACHED))


def root_cache(options: DiskOptions) -> dict[str, bool]:
    """How the host's cache is used for the disk a guest starts from. Raises UnknownDiskOption."""
    return _cache(options, options.checked_caching(CACHED))


@contextmanager
def attached(argument: DiskArgument, *, index: int, kind: str = "raw") -> Generator[BlockDevice]:
    """Attach what `--disk` names, claimed for the length of the block. Names of remote images are not known here.

    `kind` is the format of an image file; it is never guessed, because a guest could write another format's header into
    its raw disk. Raises UnknownDiskOption, DiskInUse, DiskNotAllowed, FileTrouble, nbd.BadUrl, nbd.CertificatesMissing.
    """
    options = argument.options
    if argument.is_nbd:
        yield _network_disk(argument.path, options, index)
        return
    path = os.path.expanduser(argument.path)
    try:
        is_device = stat.S_ISBLK(os.stat(path).st_mode)
    except OSError as exc:
        raise FileTrouble("cannot open disk", path, exc) from exc
    claim, device = (_device_claimed, _host_device) if is_device else (_image_claimed, None)
    made = (
        device(path, options, index)
        if device
        else _image(path, kind, options, index, options.checked_caching(AUTOMATIC))
    )
    with claim(path, options.read_only):
        yield made


@contextmanager
def _image_claimed(path: str, read_only: bool) -> Generator[None]:
    try:
        os.close(os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC))
    except OSError as exc:
        raise _explained(exc, path, read_only, "") from exc
    if read_only:
        yield
        return
    lock = try_file_lock(path)
    if lock is None:
        raise DiskInUse(path, "stop the VM that uses it, or attach it read-only to all with :ro")
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def _device_claimed(path: str, read_only: bool) -> Generator[None]:
    exclusive = 0 if read_only else os.O_EXCL
    try:
        descriptor = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | exclusive | os.O_CLOEXEC)
    except OSError as exc:
        raise _explained(exc, path, read_only, "unmount it, and stop whatever else uses it") from exc
    try:
        yield
    finally:
        os.close(descriptor)


def _explained(cause: OSError, path: str, read_only: bool, busy_hint: str) -> UserError:
    if cause.errno == errno.EBUSY:
        return DiskInUse(path, busy_hint)
    if cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DiskNotAllowed(path, read_only=read_only)
    return FileTrouble("cannot open disk", path, cause)


def _image(path: str, kind: str, options: DiskOptions, index: int, caching: str) -> BlockDevice:
    file = {"driver": "file", "filename": path}
    return _device(kind, file, _cache(options, caching), options, index)


def _cache(options: DiskOptions, caching: str) -> dict[str, bool]:
    return {"direct": caching == UNCACHED, "no-flush": options.checked_sync() == NONE}


def _host_device(path: str, options: DiskOptions, index: int) -> BlockDevice:
    cache = {"direct": True, "no-flush": options.checked_sync(SYNC_OF_DEVICES) == NONE}
    return _device("raw", {"driver": "host_device", "filename": path}, cache, options, index)


def _network_disk(url: str, options: DiskOptions, index: int) -> BlockDevice:
    cache = {"direct": False, "no-flush": options.checked_sync(SYNC_OF_DEVICES) == NONE}
    client, credentials = nbd.client(url, f"tls{index}")
    return _device("raw", client, cache, options, index, credentials)


def _device(
    kind: str,
    below: Mapping[str, object],
    cache: dict[str, bool],
    options: DiskOptions,
    index: int,
    extra: tuple[str, ...] = (),
) -> BlockDevice:
    settings = common(options, cache)
    node = {"node-name": f"block{index}", "driver": kind, **settings, "file": {**below, **settings}}
    return BlockDevice(
        nodes=(json.dumps(node),), node=f"block{index}", index=index, read_only=options.read_only, extra=extra
    )


def common(options: DiskOptions, cache: Mapping[str, bool]) -> dict[str, object]:
    """What is the same for a block node and the one below it."""
    return {"read-only": options.read_only, "discard": "unmap", "cache": cache}
