"""What the benchmarks of push and pull share: the real command, timed and weighed, and the comparison of rounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import anyio

TART = Path(sys.executable).parent / "tart"


@dataclass(kw_only=True)
class Transfer:
    """What a push or a pull came to."""

    seconds: float
    started: float
    """Seconds of these until it began, most of them Python's."""
    cpu: float
    memory: int
    """MiB at most."""
    told: dict[str, Any]
    """Its last line."""

    @property
    def working(self) -> float:
        """Seconds from its beginning on."""
        return self.seconds - self.started


def transfer(home: Path, *words: str) -> Transfer:
    """Run `tart push` or `tart pull` to its end."""
    environment = {**os.environ, "TART_HOME": str(home)}
    command = [str(TART), *words, "--insecure", "--format", "json"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        memory, started, told = 0, 0.0, "{}"
        for line in process.stdout:  # it tells how far it is several times a second, first of all that it begins
            started = started or time.perf_counter() - start
            memory, told = max(memory, peak_memory(process.pid)), line
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"tart {' '.join(words)} failed")
    return Transfer(
        seconds=seconds, started=started, cpu=used.ru_utime + used.ru_stime, memory=memory, told=json.loads(told)
    )


def peak_memory(process: int) -> int:
    """MiB of a process at most, up to now; of itself it is told, as the system counts its parent's too."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next((line for line in status if line.startswith("VmHWM:")), "0 0").split()[1]) // 1024


def touch_memory() -> None:
    """Take most of the free memory once: in a virtual machine its first use costs far more than later ones."""
    bytearray(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4 * 3)


async def drain() -> None:
    """Let what was written reach the medium, so that one round does not pay for another."""
    await anyio.to_thread.run_sync(os.sync)
    await anyio.sleep(0.5)


def rounded(seconds: list[float]) -> list[float]:
    return [round(one, 2) for one in seconds]


def share(budgets: list[float], took: list[float]) -> str:
    """How much of what is possible was reached: of the rounds, each with its own budget, the one in the middle."""
    return f"{median(budget / one for budget, one in zip(budgets, took, strict=True)):.0%}"
