"""What a VM's supervisor may ask of the privileged process. It is not trusted: what is not described here is refused.

One JSON object a message. Lists that are too long for one message come ahead in messages `more`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from tartlet.errors import UserError
from tartlet.network.shared.links import OUR_MACS

LONGEST = 1 << 16
"""Bytes of one message."""

MOST_TARGETS = 4096
"""Elements of `allow` and `block` together."""

Element = Annotated[str, msgspec.Meta(max_length=300)]
Elements = Annotated[list[Element], msgspec.Meta(max_length=MOST_TARGETS)]
_Mac = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")]
_Address = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,3}(\.[0-9]{1,3}){3}\Z")]


class NotAllowed(UserError):
    """A request that this user may not make."""


class _Request(msgspec.Struct, forbid_unknown_fields=True, tag_field="do", kw_only=True):
    pass


class More(_Request, tag="more"):
    """Elements of lists of the request that follows."""

    allow: Elements = []
    block: Elements = []


class Attach(_Request, tag="attach"):
    """A place in the network for a VM. The connection stands for the VM from then on."""

    vm: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    mac: _Mac
    mode: Literal["nat", "softnet", "host"]
    wish: _Address | None = None
    """The address that the guest believes to have."""
    allow: Elements = []
    block: Elements = []
    expose: Annotated[list[Annotated[str, msgspec.Meta(max_length=11)]], msgspec.Meta(max_length=256)] = []
    names: bool = False
    """Whether domain names may be allowed, now or later."""
    tap: Annotated[str, msgspec.Meta(pattern=r"^tartv[0-9]{1,10}\Z")] | None = None
    """The VM runs, and had this tap from a process before this one."""


class BridgedCard(_Request, tag="bridged"):
    """A card on a network that the host is on."""

    interface: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    """Any name of it."""
    mac: _Mac


class Replace(_Request, tag="replace"):
    """Another policy for the VM."""

    allow: Elements = []
    block: Elements = []


class Isolate(_Request, tag="isolate"):
    """Whether the VM exchanges nothing with other isolated ones."""

    isolated: bool


class Refused(_Request, tag="refused"):
    """What the policy has refused."""


class Hits(_Request, tag="hits"):
    """How many frames were dropped."""


class Status(_Request, tag="status"):
    """The networks, and the VMs of the user who asks."""


Request = More | Attach | BridgedCard | Replace | Isolate | Refused | Hits | Status


def read(message: bytes) -> Request:
    """The request in a message. Raises ValueError for whatever is none."""
    request: Request = msgspec.json.decode(message, type=Request)
    return request


def check_mac(mac: str) -> None:
    """Raises NotAllowed for one that belongs to a maker of hardware, to a group, or to a bridge of ours."""
    if int(mac[:2], 16) & 3 != 2 or mac.startswith(OUR_MACS):
        raise NotAllowed(
            f"the MAC address {mac} is not a locally administered one of a single machine",
            "give the VM a new one: tart set NAME --random-mac",
        )


def check_name(name: str) -> None:
    """Raises NotAllowed for a name that could not stand in a line."""
    if not re.fullmatch(r"[^\x00-\x1f\x7f]+", name):
        raise NotAllowed("the VM's name has characters that cannot be printed")
