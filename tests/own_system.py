"""Run a program where `/etc`, `/opt`, `/run` and `/home` may be changed, in a mount namespace: this machine's are not.

    unshare --mount python own_system.py OPT PROGRAM [WORDS...]

For root. `/etc` is a writable layer over the real one, `/opt` shows the folder OPT, the others are empty.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ordinary_user import mount

EMPTY = ("/run", "/home", "/var/log", "/var/lib/sudo")


def main() -> None:
    """Prepare the namespace, run the program."""
    opt, words = sys.argv[1], sys.argv[2:]
    for folder in EMPTY:
        os.makedirs(folder, exist_ok=True)
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
    layers = Path("/run/layers")
    for name in ("upper", "work"):
        (layers / name).mkdir(parents=True)
    over = f"lowerdir=/etc,upperdir={layers}/upper,workdir={layers}/work"
    mount("-t", "overlay", "-o", over, "overlay", "/etc")
    mount("--bind", opt, "/opt")
    os.chdir("/")
    os.execvp(words[0], words)


if __name__ == "__main__":
    main()
