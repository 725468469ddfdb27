"""The processes of the network that one user's VMs share, found from outside."""

from __future__ import annotations

import os

from leftovers import process_ids
from vm_lab import is_child, words_of

PARTS = ("dnsmasq", "holder", "pasta", "unshare")


def parts(seen_from: int | str = "thread-self") -> dict[str, int]:
    """Those of the network that belongs to the network namespace of a process or of this thread, by what they are."""
    here = os.readlink(f"/proc/{seen_from}/ns/net")
    found = dict[str, int]()
    for pid in process_ids():
        words = words_of(pid).split(b"\0")
        if b"tartlet.network.namespace.holder" in words and _network_of(pid) == here:
            found["unshare" if words[0] == b"unshare" else "holder"] = pid
    for pid in process_ids():
        program = os.path.basename(words_of(pid).split(b"\0")[0]).decode()
        if program in PARTS and is_child(pid, found.get("holder", -1)):
            found[program] = pid
    return found


def _network_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:  # it has ended
        return ""
