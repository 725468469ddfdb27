"""What a machine is made of. Each device writes its own words for QEMU; `command_line` only joins them.

Every device has a fixed place on the PCI bus, so that an option more or less never renames a guest's network card, and
every one can be saved and restored. Paths and names are written so that commas in them do no harm.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar, Protocol

from tartlet.errors import InvalidArgument

GUEST_AGENT_PORT = "org.qemu.guest_agent.0"
"""The name under which QEMU's guest agent finds its port (and udev starts it)."""

PORTS_BUS = "ports.0"
"""The bus of the virtio-serial ports."""

SPARE_PORT = 15
"""The number of a port that may be plugged in while the machine runs."""

CONSOLE = "console"
"""The id of the character device behind the virtio console."""

_GPU, _CARD, _ROOT_DISK, _PORTS, _ENTROPY, _BALLOON, _USB, _SOUND, _KEYBOARD = range(1, 10)
_TABLET = 0x0B
_MORE_CARDS, _MORE_DISKS, _SLOT = 0x0B, 0x10, 0x1E
"""Places on bus 0. Place 0 is the host bridge; on q35 0x1f is the south bridge. 0x0a is for shared folders."""


class TooManyDevices(InvalidArgument):
    """More devices of a kind than the machine has places for."""

    def __init__(self, kind: str, most: int) -> None:
        super().__init__(f"too many {kind}: at most {most} fit", f"give the VM fewer {kind}")


class Device(Protocol):
    """One thing a machine has."""

    __slots__ = ()

    def words(self) -> list[str]:
        """The words of QEMU's command line that make this device."""
        ...

    def descriptors(self) -> tuple[int, ...]:
        """The descriptors QEMU has to inherit for it, under the same numbers; most need none."""
        return ()

    def shape(self) -> str:
        """What of it a saved machine state depends on: kind and place, never paths or descriptors."""
        ...


def escaped(value: str | os.PathLike[str]) -> str:
    """`value` as one value of a `key=value,…` option of QEMU."""
    return os.fspath(value).replace(",", ",,")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphics(Device):
    """A virtio GPU with one screen; on amd64 also a VGA card, so that boot loaders and old kernels draw on it."""

    width: int
    height: int
    """Pixels."""
    arch: str

    def words(self) -> list[str]:
        kind = "virtio-vga" if self.arch == "amd64" else "virtio-gpu-pci"
        return ["-device", f"{kind},id=gpu,xres={self.width},yres={self.height},romfile=,addr={_GPU:#x}"]

    def shape(self) -> str:
        return "graphics"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCard(Device):
    """A virtio network card and the host's end of its cable."""

    mac: str
    netdev: str
    """What follows `-netdev`, without an id: `stream,server=off,addr.type=fd,addr.str=9`."""
    index: int = 0
    inherited: tuple[int, ...] = ()
    """Descriptors that `netdev` speaks of."""
    mtu: int | None = None
    """The longest packet of its network, which the guest is told; None leaves it at Ethernet's."""

    def words(self) -> list[str]:
        most = _MORE_DISKS - _MORE_CARDS
        if self.index >= most:
            raise TooManyDevices("network cards", most)
        place = _MORE_CARDS + self.index if self.index else _CARD
        kind, _, options = self.netdev.partition(",")
        cable = f"{kind},id=net{self.index}" + (f",{options}" if options else "")
        # Without a boot ROM the firmware does not try the network before it gives up on the disks.
        card = f"virtio-net-pci,id=card{self.index},netdev=net{self.index},mac={self.mac},romfile=,addr={place:#x}"
        return ["-netdev", cable, "-device", card + (f",host_mtu={self.mtu}" if self.mtu else "")]

    def descriptors(self) -> tuple[int, ...]:
        return self.inherited

    def shape(self) -> str:
        return f"network card {self.index}" + (f" with packets of {self.mtu} bytes" if self.mtu else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDevice(Device):
    """A virtio disk on top of a block node (see `block_nodes`)."""

    nodes: tuple[str, ...]
    """JSON of `-blockdev`, the lowest first; the last one's node name is `node`."""
    node: str
    index: int = 0
    """0 is the disk the guest starts from."""
    read_only: bool = False
    extra: tuple[str, ...] = ()
    """Words that have to come before the nodes, such as TLS credentials."""

    def words(self) -> list[str]:
        place = _MORE_DISKS + self.index - 1 if self.index else _ROOT_DISK
        if place >= _SLOT:
            raise TooManyDevices("disks", _SLOT - _MORE_DISKS + 1)
        nodes = [word for node in self.nodes for word in ("-blockdev", node)]
        disk = f"virtio-blk-pci,id=disk{self.index},drive={self.node},bootindex={self.index + 1},addr={place:#x}"
        return [*self.extra, *nodes, "-device", disk]

    def shape(self) -> str:
        return f"disk {self.index}{' read-only' if self.read_only else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A named virtio-serial port: in the guest `/dev/virtio-ports/NAME`, on the host a connected socket.

    Without a descriptor the port is only a mark that guest software can see. The port's id is its name, and a port
    with an id makes QEMU tell when the guest opens or closes it (VSERPORT_CHANGE).
    """

    name: str
    descriptor: int | None = None

    def words(self, number: int) -> list[str]:
        backend = "null" if self.descriptor is None else "socket"
        chardev = f"{backend},id=port{number}" + (f",fd={self.descriptor}" if self.descriptor is not None else "")
        name = escaped(self.name)
        return [
            *("-chardev", chardev),
            *("-device", f"virtserialport,bus={PORTS_BUS},nr={number},chardev=port{number},name={name},id={name}"),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports(Device):
    """The virtio-serial bus with its ports, in order, and perhaps a console (in the guest `/dev/hvc0`)."""

    ports: tuple[Port, ...]
    console: str | None = None
    """What the console is plugged into: what follows `-chardev`, without an id (see `console.serial`)."""

    def words(self) -> list[str]:
        words = ["-device", f"virtio-serial-pci,id=ports,max_ports={SPARE_PORT + 1},addr={_PORTS:#x}"]
        if self.console is not None:
            kind, _, options = self.console.partition(",")
            words += ["-chardev", f"{kind},id={CONSOLE}" + (f",{options}" if options else "")]
            words += ["-device", f"virtconsole,bus={PORTS_BUS},nr=0,chardev={CONSOLE}"]
        for number, port in enumerate(self.ports, start=1):
            words += port.words(number)
        return words

    def descriptors(self) -> tuple[int, ...]:
        return tuple(port.descriptor for port in self.ports if port.descriptor is not None)

    def shape(self) -> str:
        names = ", ".join(port.name for port in self.ports)
        return f"ports {names}{' and a console' if self.console is not None else ''}"


@dataclass(frozen=True, slots=True)
class Entropy(Device):
    """Random numbers of the host for the guest."""

    def words(self) -> list[str]:
        return [
            *("-object", "rng-random,id=entropy,filename=/dev/urandom"),
            *("-device", f"virtio-rng-pci,rng=entropy,addr={_ENTROPY:#x}"),
        ]

    def shape(self) -> str:
        return "entropy"


@dataclass(frozen=True, slots=True)
class Balloon(Device):
    """Gives memory the guest has freed back to the host."""

    def words(self) -> list[str]:
        return ["-device", f"virtio-balloon-pci,id=balloon,free-page-reporting=on,addr={_BALLOON:#x}"]

    def shape(self) -> str:
        return "balloon"


@dataclass(frozen=True, slots=True)
class Slot(Device):
    """An empty place into which one device can be plugged, and out of it, while the guest runs (see `plug`)."""

    name: ClassVar[str] = "spare"

    def words(self) -> list[str]:
        return ["-device", f"pcie-root-port,id={self.name},chassis=1,io-reserve=0,addr={_SLOT:#x}"]

    def shape(self) -> str:
        return "slot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs(Device):
    """Keyboard and absolute pointer on USB, which firmware, boot loaders and installers all know, and on virtio.

    The kernels that distributions make for the cloud know virtio only. QEMU sends each key to one of the two: to the
    one whose driver came up last.
    """

    keyboard: bool = True
    pointer: bool = True

    def words(self) -> list[str]:
        if not (self.keyboard or self.pointer):
            return []
        words = ["-device", f"qemu-xhci,id=usb,addr={_USB:#x}"]
        if self.keyboard:
            words += ["-device", "usb-kbd,bus=usb.0,port=1", "-device", f"virtio-keyboard-pci,addr={_KEYBOARD:#x}"]
        if self.pointer:
            words += ["-device", "usb-tablet,bus=usb.0,port=2", "-device", f"virtio-tablet-pci,addr={_TABLET:#x}"]
        return words

    def shape(self) -> str:
        return f"keyboard {self.keyboard}, pointer {self.pointer}, on USB and virtio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound(Device):
    """An Intel HDA card. virtio-sound would be the kin of the rest, but QEMU has it only since 8.2.

    The guest sees the same card whatever stands behind it, so that a machine saved with sound goes on without.
    """

    driver: str = "none"
    """QEMU's audio driver on the host (see `console.audio`); `none` is silent both ways."""

    def words(self) -> list[str]:
        return [
            *("-audiodev", f"{self.driver},id=audio"),
            *("-device", f"ich9-intel-hda,id=sound,addr={_SOUND:#x}"),
            *("-device", "hda-duplex,bus=sound.0,audiodev=audio"),
        ]

    def shape(self) -> str:
        return "sound"
