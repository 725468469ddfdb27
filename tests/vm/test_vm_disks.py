"""Extra disks: in their order, read-only where asked, and never written by two."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cached_images import put
from tartlet.disk.model import inspect
from tartlet.host.paths import Home
from tartlet.image.cache.cache import ImageCache
from tartlet.units import MIB
from vm_lab import BACKGROUND, HEADLESS, Lab, leaving_nobody, until


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


def test_a_cached_image_as_a_disk_is_a_private_copy(stopped: Lab, tmp_path: Path) -> None:
    name, content = "ghcr.io/org/tools:one", b"content!" * (4 * MIB // 8)
    disk = put(ImageCache(Home(stopped.home)), name, 1, content).disk_path
    refused = stopped.tart("run", "mini", *HEADLESS, "--disk", "ghcr.io/org/other")
    assert refused.code == 2
    assert refused.err.splitlines()[0] == 'the disk "ghcr.io/org/other" is neither a file nor a cached image'
    with leaving_nobody():
        stopped.done("run", "mini", *BACKGROUND, "--disk", name, "--disk", f"{name}:ro", timeout=100)
        assert stopped.sh("cat /sys/block/vdb/size /sys/block/vd[bc]/ro").split() == ["8192", "0", "1"]
        refused = stopped.tart("suspend", "mini")
        assert (refused.code, "would not outlive" in refused.err, "--disk" in refused.err) == (1, True, True), refused
        assert stopped.state() == "running"
        stopped.done("delete", name)
        assert not disk.exists()
        copies = list((stopped.home / "tmp").glob("*/disk.img"))  # `list` collects what nobody holds
        assert len(copies) == 2
        for copy in copies:
            kind = inspect(copy).format
            subprocess.run(["qemu-img", "convert", "-U", "-f", kind, "-O", "raw", copy, tmp_path / "flat"], check=True)
            assert (tmp_path / "flat").read_bytes() == content
        stopped.done("stop", "mini")
        until(lambda: not list((stopped.home / "tmp").iterdir()), "the copies to go")
