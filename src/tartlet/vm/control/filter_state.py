"""What the filters of running VMs do, told by their supervisors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import anyio

from tartlet.network.filter_state import FilterState
from tartlet.vm.control.ask import Refused, SupervisorGone, asked
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.store import VmNotRunning, VmStore

log = logging.getLogger(__name__)

_PATIENCE = 2.0
"""Seconds for all supervisors together; one that starts or saves its guest may need longer."""


async def filter_state(vm: VmFolder) -> FilterState | None:
    """What the filter of a running VM does; None when its network has none. Raises VmNotRunning, UserError."""
    return (await _told(vm))[1]


async def filter_states(store: VmStore) -> dict[str, FilterState]:
    """The filters of the VMs that run, by MAC address. A VM that ends meanwhile, or does not answer, is left out."""
    found = dict[str, FilterState]()

    async def ask(vm: VmFolder) -> None:
        try:
            mac, state = await _told(vm)
        except (VmNotRunning, SupervisorGone, Refused) as exc:
            log.debug("the filter of %s: %s", vm.name, exc)
            return
        if state is not None:
            found[mac] = state

    with anyio.move_on_after(_PATIENCE):
        async with anyio.create_task_group() as tasks:
            for vm in store.all():
                if vm.supervisor():
                    tasks.start_soon(ask, vm)
    return found


async def _told(vm: VmFolder) -> tuple[str, FilterState | None]:
    async with asked(vm, "filter") as answer:
        told = answer.told["filter"]
        return str(answer.told["mac"]).lower(), None if told is None else _state(told)


def _state(told: Mapping[str, Any]) -> FilterState:
    allow, block = told["allow"], told["block"]
    return FilterState(
        allow=None if allow is None else tuple(allow),
        block=None if block is None else tuple(block),
        revision=told["revision"],
        dropped=dict(told["dropped"]),
    )
