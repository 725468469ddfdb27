"""What `tart run` adds to the boot of a guest, against the bare QEMU command line that it uses; and what it takes.

Run it on a quiet machine with the packages of the tests: .venv/bin/python benchmarks/run_overhead.py
Both boots are timed in turn, from the start of the process to the guest's READY on its serial port. The guest gets a
network that leads nowhere (a namespace of its own).
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 5
MOST_ADDED = 0.5
"""Seconds `tart run` may add."""
MOST_MEMORY = 60.0
"""MiB the supervisor may take."""
SOCKET = re.compile(r"socket,id=(\w+),fd=\d+")
TAP = re.compile(r"tap,id=(\w+),.*")
MEMORY = re.compile(r"memory-backend-file,(.*),mem-path=/proc/self/fd/\d+")
TART = str(Path(sys.executable).with_name("tart"))


def main() -> None:
    """Measure and print."""
    if "--inside" not in sys.argv:
        words = ["unshare", "--map-root-user", "--net", sys.executable, __file__, "--inside"]
        sys.exit(subprocess.run(words, check=False).returncode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from machines import mini_guest

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TART_HOME"] = scratch
        made_vm(mini_guest())
        vm = Path(scratch) / "vms" / "guest"
        with_tart, bare, memory = measured(vm)
    added = statistics.median(with_tart) - statistics.median(bare)
    print(f"bare QEMU   {statistics.median(bare):6.2f} s   {[round(taken, 2) for taken in bare]}")
    print(f"tart run    {statistics.median(with_tart):6.2f} s   {[round(taken, 2) for taken in with_tart]}")
    ratio = statistics.median(with_tart) / statistics.median(bare)
    print(f"added       {added:6.2f} s   {ratio:.2f} x   (at most {MOST_ADDED} s)")
    print(f"supervisor  {max(memory):6.1f} MiB (at most {MOST_MEMORY:.0f})")


def made_vm(disk: Path) -> None:
    """A VM with the tiny guest's disk."""
    tart("create", "--linux", "--disk-size", "1", "guest")
    tart("set", "guest", "--cpu", "1", "--memory", "256", "--disk", str(disk))


def measured(vm: Path) -> tuple[list[float], list[float], list[float]]:
    """Seconds of the boots with and without `tart`, and the supervisor's memory in MiB."""
    with_tart: list[float] = []
    bare: list[float] = []
    memory: list[float] = []
    for _ in range(ROUNDS):
        (vm / "serial.log").unlink(missing_ok=True)
        begun = time.perf_counter()
        with subprocess.Popen([TART, "run", "guest", "--no-graphics"], stdout=subprocess.DEVNULL) as supervisor:
            await_ready(vm / "serial.log")
            with_tart.append(time.perf_counter() - begun)
            words = command_line_below(supervisor.pid)
            tart("exec", "guest", "true")
            memory.append(resident(supervisor.pid))
            supervisor.send_signal(signal.SIGINT)
        (vm / "serial.log").unlink()
        begun = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as qemu:
            await_ready(vm / "serial.log")
            bare.append(time.perf_counter() - begun)
            qemu.kill()
    return with_tart, bare, memory


def tart(*words: str) -> None:
    """Run the command to its end."""
    subprocess.run([TART, *words], check=True, stdout=subprocess.DEVNULL)


def await_ready(log: Path) -> None:
    """Return when the guest says that it is up; look often, for the answer is a time."""
    deadline = time.monotonic() + 60
    while not (log.exists() and b"READY" in log.read_bytes()):
        if time.monotonic() > deadline:
            sys.exit("the guest did not boot within a minute")
        time.sleep(0.005)


def command_line_below(pid: int) -> list[str]:
    """The words of the QEMU that this process started, with nobody at the other ends, and not waiting to be told."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        words = Path(f"/proc/{child}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
        if "qemu-system" in words[0]:
            alone = [SOCKET.sub(r"null,id=\1", word) for word in words if word != "-S"]
            alone = [TAP.sub(r"user,id=\1,restrict=on", word) for word in alone]
            return [MEMORY.sub(r"memory-backend-memfd,\1", word) for word in alone]
    sys.exit("tart run has no QEMU below it")


def resident(pid: int) -> float:
    """MiB of memory a process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    main()
