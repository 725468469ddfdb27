"""Kill a Python program with SIGKILL before its n-th system call that changes something, for every n.

The code under test knows nothing of it: the interpreter tells the child of each call into the C modules that wrap
the system's, and the child counts those that can leave a trace or take time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

_COUNTED = """
chmod chown copy_file_range fork_exec fsync ftruncate ioctl link mkdir open posix_fallocate pwrite rename replace rmdir
sendfile symlink truncate unlink utime waitpid write
"""
"""Being killed before another one (read, close) leaves the same world as before the next of these."""

_CHILD = """
import os, signal, sys

counted = frozenset({counted!r}.split())
left = {point}

def before(frame, event, what):
    global left
    if event == "c_call" and what.__name__ in counted:
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

{imports}
sys.setprofile(before)
{action}
sys.setprofile(None)
"""


def killed_everywhere(imports: str, action: str, *arguments: str | os.PathLike[str]) -> Iterator[int]:
    """Run `action` (Python, after `imports`, `sys.argv[1:]` are the arguments) again and again, killed one call later.

    Gives the number of each point where it was killed, after the kill; ends when the action came to its end.
    The caller puts the world back before asking for the next.
    """
    point = 1
    while True:
        script = _CHILD.format(counted=_COUNTED, point=point, imports=imports, action=action)
        child = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        if child.returncode == 0:
            assert point > 1, "the action makes no system call that counts"
            return
        assert child.returncode == -signal.SIGKILL, child.stderr
        yield point
        point += 1
