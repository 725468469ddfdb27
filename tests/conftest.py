"""Rules for every test: what needs which machine, and that nothing is left running."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from leftovers import loop_devices_on, mark_this_run, mounts_below, process_ids, survivors

LONGEST = ("vm/test_vm_agent.py", "vm/test_vm_kill.py", "vm/test_vm_vsock.py", "vm/test_vm_fork.py")
"""Files of tests that take minutes, the longest first. The second needs no whole system while the first boots one."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take more than a minute")


def pytest_configure() -> None:
    mark_this_run()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "slow": None if config.getoption("--slow") else "takes more than a minute; give --slow to run it",
        "needs_root": None if os.geteuid() == 0 else "needs root",
        "needs_kvm": _why_no_kvm(),
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    """Where a file stands among the others: workers that test at once take the longest first, and end together."""
    file = item.path.relative_to(Path(__file__).parent).as_posix()
    if file in LONGEST:
        return LONGEST.index(file)
    return len(LONGEST) + (not file.startswith("vm/"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The program runs on asyncio only."""
    return "asyncio"


@pytest.fixture(autouse=True)
def leaves_no_process() -> Iterator[None]:
    """A test ends the processes that it started; fixtures of a wider scope were set up before this one looks."""
    before = process_ids()
    yield
    left = survivors(before, grace=15)
    assert not left, f"still running after the test: {left}"


@pytest.fixture(scope="session", autouse=True)
def leaves_no_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No mount and no loop device on the tests' files outlives the run."""
    yield
    base = tmp_path_factory.getbasetemp().resolve()
    left = mounts_below(base) + loop_devices_on(base)
    assert not left, f"still attached after the tests: {left}"


def _why_no_kvm() -> str | None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm cannot be opened"
    if platform.machine() in ("x86_64", "AMD64") and not re.search(r"\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text()):
        return "the processor offers neither vmx nor svm"
    return None
