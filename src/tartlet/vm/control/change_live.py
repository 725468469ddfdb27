"""`tart set` on a running VM: what can change at once does, the rest when it is started next."""

from __future__ import annotations

from tartlet.disk.chain import chain_of
from tartlet.vm.control.ask import asked
from tartlet.vm.stored.change import Changes, change
from tartlet.vm.stored.store import VmStore


async def change_running(store: VmStore, name: str, changes: Changes) -> list[str]:
    """Change a running VM; one line for each change that its guest does not see yet.

    The disk grows at once. Memory goes down at once, by the guest's balloon, and up again to what the VM was started
    with. Raises what `change` raises, VmNotRunning, Refused (QEMU's words), SupervisorGone.
    """
    import anyio.to_thread

    vm = store.open(name)
    if changes.disk_size is not None and changes.disk is None:
        config = vm.config()
        changes.applied_to(config)  # everything is checked before anything is changed
        grown = chain_of(vm.path, config.disk_format).top.grown_to(changes.disk_size)
        async with asked(vm, "grow", size=grown.size):
            changes = changes.without_disk_size()
    await anyio.to_thread.run_sync(change, store, name, changes)
    notes = [f"{what}: from the next start on" for what in changes.for_the_next_start()]
    if changes.memory is not None:
        async with asked(vm, "balloon", size=changes.memory) as answer:
            if not answer.told["now"]:
                notes.append(f"memory: from the next start on; {answer.told['why']}")
    return notes
