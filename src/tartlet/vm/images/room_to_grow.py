"""Room for what the guest of a new clone may write: a clone shares its disk and takes none of it yet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tartlet.errors import FileTrouble
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.listing import sizes
from tartlet.vm.stored.store import VmStore

if TYPE_CHECKING:
    from tartlet.image.cache.prune import Pruned


def make_room_to_grow(store: VmStore, source: VmFolder, limit: int) -> list[Pruned]:
    """Remove cached entries until a clone of `source` can be written full, or until `limit` bytes are free.

    `source` itself stays, and nothing is removed when that would not be enough. Raises FileTrouble.
    """
    try:
        disk, taken = sizes(source)
        found = os.statvfs(store.home.cache)
    except FileNotFoundError:  # the source was deleted meanwhile
        return []
    except OSError as exc:
        raise FileTrouble("cannot look at", source.path, exc) from exc
    needed = min(disk - taken, limit)
    if needed <= found.f_bavail * found.f_frsize:
        return []

    from tartlet.vm.images.prune import reclaim  # most clones do without

    return reclaim(store, needed, spare=[source.path], near=store.home.vms)
