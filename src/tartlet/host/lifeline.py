"""Words that make a child process end when the process that starts it ends, even by SIGKILL."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

_ONLY_WITH_PARENT = '[ "$PPID" -eq "$0" ] && exec "$@"'
"""The parent may have died before the child asked for its signal: then there is nobody to tell, so the child looks."""


def tied(argv: Sequence[str]) -> list[str]:
    """`argv` as words for a direct child of this process that the kernel kills together with the starting thread.

    Linux ties the child to the *thread* that starts it: start it from one that lives as long as the child should, which
    the thread of the event loop does. Costs about 2 ms, and is done by util-linux's `setpriv` instead of code between
    fork and exec, which is unsafe beside threads. Where the system has no such signal (macOS) the words stay the same.
    """
    setpriv = shutil.which("setpriv")
    if sys.platform != "linux" or setpriv is None or os.path.basename(os.path.realpath(setpriv)) == "busybox":
        return list(argv)  # busybox has a setpriv that knows nothing of parents
    return [setpriv, "--pdeathsig", "KILL", "--", "/bin/sh", "-c", _ONLY_WITH_PARENT, str(os.getpid()), *argv]
