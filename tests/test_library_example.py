"""The program in the library's reference does what the page says it does."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import tartlet
from machines import mini_guest
from namespaces import namespace
from tartlet.disk.model import DISK
from tartlet.host.copying import sparse_copy
from tartlet.units import MIB

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "library.md"


def a_vm(store: tartlet.VmStore, name: str) -> None:
    """A VM with the tiny guest on its disk and a quarter of a gigabyte of memory."""
    vm = tartlet.create_empty(store, name, disk_size=MIB)
    vm.disk_path.unlink()
    sparse_copy(mini_guest(), vm.path / DISK)
    vm.disk_path.chmod(0o600)
    config = vm.config()
    store.save_config(vm, config, replace(config, memory_size=256 * MIB, cpu_count=1))


def test_the_example_of_the_reference_runs(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    program = tmp_path / "example.py"
    program.write_text(found[1])
    store = tartlet.VmStore(tartlet.Home(tmp_path / ".tart").prepared())
    a_vm(store, "debian")
    with namespace(uplink=True) as net:
        done = subprocess.run(
            net.words("env", f"HOME={tmp_path}", sys.executable, "-W", "error", program),
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Linux \S+ \d", done.stdout, re.MULTILINE)
    assert "exit code 0" in done.stdout
    assert store.names() == ["debian"]
    assert done.stderr == ""
