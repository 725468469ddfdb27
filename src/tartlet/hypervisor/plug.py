"""Devices that come and go in the machine's `Slot` while the guest runs."""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from tartlet.errors import UserError
from tartlet.hypervisor.devices import Slot
from tartlet.hypervisor.qmp import CommandFailed, Monitor, MonitorUnreachable
from tartlet.hypervisor.qmp_events import Events

LETTING_GO = 15.0
"""Seconds a guest gets to let go of a device. Linux on q35 takes 0.1; by the PCIe way, as on arm64, it takes five."""

_AGAIN = 2.0
"""Seconds until it is asked once more: a guest that boots loses the first question."""


class StillPlugged(UserError):
    """The guest does not let go of a device."""

    def __init__(self, device: str) -> None:
        super().__init__(
            f"the guest does not let go of its {device} device",
            "if it still boots, try again when it is up; a guest that hangs has to be stopped",
        )


async def plug_in(monitor: Monitor, device: str, properties: Mapping[str, object]) -> None:
    """Plug in a device. Raises CommandFailed, MonitorUnreachable."""
    await monitor.add_device({"id": device, "bus": Slot.name, **properties})


async def take_out(monitor: Monitor, device: str) -> None:
    """Have the guest let go of a device. Raises StillPlugged, MonitorUnreachable."""
    with monitor.listening("DEVICE_DELETED") as events:
        with anyio.move_on_after(LETTING_GO):
            while not await _let_go(monitor, device, events):
                pass
            return
    raise StillPlugged(device)


async def _let_go(monitor: Monitor, device: str, events: Events) -> bool:
    refusal: CommandFailed | None = None
    try:
        await monitor.request_removal(device)
    except CommandFailed as exc:  # it is asked already, or the device went a moment ago
        refusal = exc
    with anyio.move_on_after(_AGAIN):
        async for event in events:
            if event.data.get("device") == device:
                return True
        raise MonitorUnreachable("QEMU ended in the middle of it") from refusal
    return False
