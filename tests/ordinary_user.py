"""Run a program as an ordinary user who can read this checkout and open taps, whatever the modes of the folders are.

    unshare --mount python ordinary_user.py UID [OPTIONS OF SETPRIV... --] PROGRAM [WORDS...]

For root, in a mount namespace of its own: `/dev/net/tun` is opened to everybody as most systems have it, and folders of
root's on the way to the interpreter and to the checkout are replaced by ones that hold nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NOBODY = 65534
SCRIPT = __file__
ROOT = Path(__file__).parent.parent


def main() -> None:
    """Prepare the namespace, become the user, run the program."""
    uid, words = sys.argv[1], sys.argv[2:]
    options = words[: words.index("--")] if words[0].startswith("--") else []
    needed = [ROOT, Path(sys.prefix), Path(sys.base_prefix)]
    open_way_to({folder.resolve() for folder in needed})
    mount("-t", "tmpfs", "tmpfs", "/dev/net")
    os.mknod("/dev/net/tun", 0o020666, os.makedev(10, 200))
    os.chmod("/dev/net/tun", 0o666)
    os.chdir("/")
    program = words[len(options) + 1 :] if options else words
    os.execvp("setpriv", ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", *options, "--", *program])


def open_way_to(folders: set[Path]) -> None:
    """Have everybody reach the folders."""
    held = {folder: os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in folders}
    closed = {parent for folder in folders for parent in (*folder.parents, folder) if not parent.stat().st_mode & 1}
    outermost = [folder for folder in closed if not closed & set(folder.parents)]
    for folder in outermost:
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
    for folder, descriptor in held.items():
        if any(folder.is_relative_to(cover) for cover in outermost):
            folder.mkdir(parents=True, exist_ok=True)
            mount("--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{descriptor}", folder)


def mount(*words: str | Path) -> None:
    """mount(8)."""
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main()
