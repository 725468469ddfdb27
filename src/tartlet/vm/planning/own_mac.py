"""No two running VMs have the same MAC address: one that starts beside its twin gets a new one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from tartlet.network.shared.addresses import MacTaken
from tartlet.vm.planning.plan import Plan
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import VmConfig, VmState
from tartlet.vm.stored.store import VmStore


@asynccontextmanager
async def with_own_mac(
    store: VmStore,
    vm: VmFolder,
    make: Callable[[VmConfig], AbstractAsyncContextManager[Plan]],
    announce: Callable[[str], None],
) -> AsyncGenerator[Plan]:
    """The plan that `make` makes of the VM's configuration, with a new MAC address where a running VM has the same.

    That other VM may be of this home, or of another one when both are to be in the network that the user's VMs share.
    In the second case a saved machine is not given up: raises MacTaken. Raises what `make` raises, too.
    """
    config = _unlike_those_of_this_home(store, vm, announce)
    async with AsyncExitStack() as held:
        try:
            plan = await held.enter_async_context(make(config))
        except MacTaken:
            if vm.state() is VmState.SUSPENDED:
                raise
            announce(f"A running VM of another home of this user has the same MAC address {config.mac_address}.")
            plan = await held.enter_async_context(make(_renewed(store, vm, config, announce)))
        yield plan


def _unlike_those_of_this_home(store: VmStore, vm: VmFolder, announce: Callable[[str], None]) -> VmConfig:
    config = vm.config()
    other = store.same_mac(config.mac_address, besides=vm.name, only_running=True)
    if other is None:
        return config
    announce(f'The running VM "{other.name}" has the same MAC address {config.mac_address}.')
    return _renewed(store, vm, config, announce)


def _renewed(store: VmStore, vm: VmFolder, config: VmConfig, announce: Callable[[str], None]) -> VmConfig:
    new = config.with_new_mac()
    store.save_config(vm, config, new)
    announce(f'"{vm.name}" gets a new one and starts afresh.')
    return new
