"""Extra disks: in their order, read-only where asked, and never written by two."""

from __future__ import annotations

from pathlib import Path

from tartlet.units import MIB
from vm_lab import BACKGROUND, HEADLESS, Lab, leaving_nobody


def test_extra_disks_and_first_boot_data(stopped: Lab, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.img", "a, two.img", "three.img")]
    for number, path in enumerate(paths, start=2):
        path.write_bytes(bytes([number]) * (number * MIB))
    stopped.done("clone", "mini", "second")
    stopped.vm().seed_path.write_bytes(bytes(MIB))
    one, two, three = map(str, paths)
    with leaving_nobody():
        stopped.done("run", "mini", *BACKGROUND, "--disk", one, "--disk", f"{two}:ro", "--disk", three, timeout=100)
        sectors = stopped.sh("cd /sys/block; for disk in vd?; do echo $disk $(cat $disk/size) $(cat $disk/ro); done")
        assert sectors.splitlines()[1:] == ["vdb 4096 0", "vdc 6144 1", "vdd 8192 0", "vde 2048 1"]
        for disk in (one, three):
            refused = stopped.tart("run", "second", *HEADLESS, "--disk", disk)
            assert refused.code == 1
            assert f"disk {disk} is already in use" in refused.err
        refused = stopped.tart("run", "second", *HEADLESS, "--disk", str(stopped.vm().disk_path))
        assert refused.code == 1, "the disk of a VM that runs"
        stopped.done("run", "second", "--no-graphics", "--detach", "--disk", f"{two}:ro")
        stopped.done("stop", "second")
        stopped.done("stop", "mini")
        stopped.done("run", "second", "--no-graphics", "--detach", "--disk", one)
        stopped.done("stop", "second")
