"""A guest for tests of what is done in one, without a machine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from guest_channels import served
from host_agents import agent_process, agents_served
from machines import MAC
from scripted_qga import scripted_qga
from tartlet.guest.rpc.channel import GuestChannel, connect


@pytest.fixture(params=["tart", "qemu"])
async def channel(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[GuestChannel]:
    """A channel to a guest that is this host, in other folders, by either agent."""
    vm = tmp_path / "vm"
    vm.mkdir()
    if request.param == "tart":
        with agent_process() as (port, _):
            async with agents_served(vm, port), connect(vm, patience=10) as channel:
                yield channel
    else:
        with scripted_qga() as (port, _):
            async with served(vm, port, MAC), connect(vm, patience=10) as channel:
                yield channel
