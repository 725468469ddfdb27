"""A folder of the host as a device of the guest. What serves it is no business of QEMU's (see `share`)."""

from __future__ import annotations

from dataclasses import dataclass

from tartlet.hypervisor.devices import TooManyDevices, escaped

PLACE = 0x0A
"""On bus 0. All of them are functions of one place."""

_MOST = 8
_REQUESTS = 1024
"""Entries of the request queue, the most a virtio queue of this device has; the default is 128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFolder:
    """A virtio file system. QEMU and its server both work on the guest's memory, which has to be shared for that."""

    tag: str
    """What the guest mounts; at most 36 bytes."""
    descriptor: int
    """A socket connected to the server (vhost-user)."""
    index: int = 0

    def words(self) -> list[str]:
        if self.index >= _MOST:
            raise TooManyDevices("tags of shared folders", _MOST)
        place = f"addr={PLACE:#x}.{self.index:#x},multifunction=on"
        device = f"vhost-user-fs-pci,id=fs{self.index},chardev=share{self.index},queue-size={_REQUESTS}"
        return [
            *("-chardev", f"socket,id=share{self.index},fd={self.descriptor}"),
            *("-device", f"{device},tag={escaped(self.tag)},{place}"),
        ]

    def descriptors(self) -> tuple[int, ...]:
        return (self.descriptor,)

    def shape(self) -> str:
        return f"shared folder {self.tag}"
