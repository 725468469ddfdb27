"""Takes a bridge of the host away when nobody is left who needs it, however all of them ended.

A bridge and the rules of its network belong to no process: so they guard guests that live on when the privileged
process is killed. Somebody has to remove them then, and that is a shell that waits for the end of a pipe, whose other
end is held by the privileged process and by everybody who has a guest on the bridge.
"""

from __future__ import annotations

import os
import subprocess
from functools import partial

from tartlet.network.shared.fabric import Fabric, base_removal
from tartlet.network.shared.helpers import Helper

_SCRIPT = """trap '' HUP INT TERM
cat > /dev/null && ip link del dev "if$1" 2> /dev/null && nft "$2" 2> /dev/null"""
"""The bridge goes by its number, which no other interface ever gets: so a successor of the same name stays."""


class Caretaker(Helper):
    """The caretaker of one bridge, and the end of the pipe that keeps it waiting."""

    def __init__(self, fabric: Fabric) -> None:
        hears, self.standing = os.pipe()
        """A descriptor to be inherited by whoever has a guest on the bridge; it is used for nothing."""
        bridge = fabric.served.bridge
        words = ["/bin/sh", "-c", _SCRIPT, "sh", str(fabric.number), base_removal(bridge)]
        super().__init__(f"caretaker ({bridge})", partial(_started, words, hears))


def _started(words: list[str], hears: int, says: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, stdin=hears, stdout=subprocess.DEVNULL, stderr=says, start_new_session=True)
