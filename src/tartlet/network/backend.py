"""The networks a VM can be plugged into: what each backend must offer, and the choice between them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Protocol

from tartlet.network.attachment import (
    Attachment,
    AttachRequest,
    BackendUnusable,
    Lack,
    ModeUnavailable,
    NetworkMode,
)
from tartlet.network.bridge.bridge import Bridge
from tartlet.network.bridged import bridged
from tartlet.network.bridged.bridged import Bridged
from tartlet.network.namespace.userns import Userns
from tartlet.network.user_mode.passt import Passt
from tartlet.network.user_mode.slirp import Slirp

log = logging.getLogger(__name__)


class NetworkBackend(Protocol):
    """One of several real ways to give guests a network."""

    @property
    def name(self) -> str:
        """The word that logs, `tart doctor` and the VM's record know it by."""
        ...

    @property
    def modes(self) -> frozenset[NetworkMode]:
        """What it can isolate. A mode that it would weaken is not among them."""
        ...

    @property
    def offloads(self) -> bool:
        """Whether its cards leave checksums and cutting to the host. A guest saved with such a card needs one again."""
        ...

    def lacking(self) -> Lack | None:
        """Why it cannot be used on this host; None when it can, as far as that shows without starting anything."""
        ...

    def attach(self, request: AttachRequest) -> AbstractAsyncContextManager[Attachment]:
        """Plug a VM in for the length of the block, before QEMU starts. Raises BackendUnusable, UserError."""
        ...


BACKENDS: tuple[NetworkBackend, ...] = (Bridge(), Userns(), Passt(), Slirp(), Bridged())
"""The best first; for bridged VMs there is one."""

_OPTIONS = {
    NetworkMode.SOFTNET: (
        "--net-softnet",
        "it needs a backend that filters packets by destination, which the user-mode backends passt and slirp cannot",
    ),
    NetworkMode.BRIDGED: (
        "--net-bridged",
        "it needs the right to change the host's network: `tart doctor` tells how to have it",
    ),
    NetworkMode.HOST: ("--net-host", "it needs the backend slirp"),
    NetworkMode.NAT: ("the default network", "it needs the backend bridge, userns, passt or slirp"),
}


def preferred(name: str) -> tuple[NetworkBackend, ...]:
    """The backends to choose from by the setting `backend`: the one of that name, or with `auto` all.

    Bridged VMs are in no network of ours: the setting is not about them. Only who asks for `bridge` by name has the
    host's network changed where nobody has set that up.
    """
    if name == Bridge.name:
        return (Bridge(on_demand=True), Bridged(on_demand=True))
    return tuple(backend for backend in BACKENDS if name in ("auto", backend.name) or backend.name == bridged.NAME)


def survey() -> list[tuple[str, Lack | None]]:
    """Every backend with what it lacks here; None stands for usable."""
    return [(backend.name, backend.lacking()) for backend in BACKENDS]


def candidates(request: AttachRequest, backends: tuple[NetworkBackend, ...] = BACKENDS) -> Generator[NetworkBackend]:
    """The backends that can honour the request here, the best first; a resumed guest's former one before all.

    Each is looked at when its turn comes. Raises ModeUnavailable at the end when there was none: an isolation that was
    asked for is not weakened. Raises BackendUnusable when the saved guest's card is one that none of them has.
    """
    former = next((backend for backend in BACKENDS if request.keep and backend.name == request.keep.backend), None)
    needs_offload = former is not None and former.offloads
    fitting = [one for one in backends if request.mode in one.modes and (one.offloads or not needs_offload)]
    any_usable = False
    for backend in sorted(fitting, key=lambda one: former is None or one.name != former.name):
        if _usable(backend):
            any_usable = True
            yield backend
    if any_usable:
        return
    if former and needs_offload:
        raise BackendUnusable(former.name, former.lacking() or Lack(reason="it is not to be used"))
    raise ModeUnavailable(*_OPTIONS[request.mode])


def choose(request: AttachRequest, backends: tuple[NetworkBackend, ...] = BACKENDS) -> NetworkBackend:
    """The backend for the request. Raises ModeUnavailable."""
    return next(candidates(request, backends))


@asynccontextmanager
async def attached(
    request: AttachRequest, backends: tuple[NetworkBackend, ...] = BACKENDS
) -> AsyncGenerator[Attachment]:
    """Plug a VM in for the length of the block, by the best backend that starts.

    A backend that fails its start is named in the attachment's notes, and the next one that honours the same request
    takes its place. Raises ModeUnavailable, BackendUnusable (the last one failed too), UserError.
    """
    async with AsyncExitStack() as held:
        attachment = await _first_that_starts(request, candidates(request, backends), held)
        log.debug("network: %s at %s", attachment.record.backend, attachment.record.address)
        yield attachment


async def _first_that_starts(
    request: AttachRequest, able: Iterable[NetworkBackend], held: AsyncExitStack
) -> Attachment:
    failures: list[BackendUnusable] = []
    for backend in able:
        try:
            attachment = await held.enter_async_context(backend.attach(request))
        except BackendUnusable as failure:
            log.debug("%s", failure, exc_info=failure)
            failures.append(failure)
        else:
            notes = tuple(f"{failure}; {backend.name} is used instead" for failure in failures)
            return replace(attachment, notes=notes + attachment.notes)
    raise failures[-1]


def _usable(backend: NetworkBackend) -> bool:
    lack = backend.lacking()
    if lack:
        log.debug("network backend %s: %s", backend.name, lack.reason)
    return lack is None
