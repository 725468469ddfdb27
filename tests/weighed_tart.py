"""`tart`, which at its end writes to the file TOLD how it used memory, as JSON: TOLD WORDS...

`most`: bytes it had at most. `heaps`: how many the C library made, of which each thread may get one.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

from tartlet.cli.main import main


def most() -> int:
    """Bytes in memory at the peak."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) << 10


def heaps(scratch: Path) -> int:
    """What malloc_info(3) of glibc lists."""
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    file = ctypes.c_void_p(libc.fopen(bytes(scratch), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    return scratch.read_text().count("<heap ")


if __name__ == "__main__":
    told = Path(sys.argv[1])
    try:
        sys.exit(main(sys.argv[2:]))
    finally:
        told.write_text(json.dumps({"most": most(), "heaps": heaps(told)}))
