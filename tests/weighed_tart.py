"""`tart`, which at its end writes to the file TOLD what memory it had at most, in KiB: TOLD WORDS..."""

from __future__ import annotations

import sys
from pathlib import Path

from tartlet.cli.main import main

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[2:]))
    finally:
        status = Path("/proc/self/status").read_text().splitlines()
        Path(sys.argv[1]).write_text(next(line.split()[1] for line in status if line.startswith("VmHWM:")))
