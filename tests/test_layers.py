"""The picture of the layers in the README is true: imports only point down."""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from imports_of import PACKAGE, ROOT, folders_imported, imports_in, layer_of, layers_imported, modules, modules_imported

MAY_IMPORT: dict[str, set[str]] = {
    "cli": {
        "vm",
        "archive",
        "image",
        "hypervisor",
        "network",
        "guest",
        "web",
        "console",
        "share",
        "build",
        "disk",
        "host",
    },
    "vm": {
        "web",
        "archive",
        "image",
        "hypervisor",
        "network",
        "guest",
        "console",
        "share",
        "vsock",
        "build",
        "disk",
        "host",
    },
    "archive": {"disk", "host"},
    "image": {"disk", "host"},
    "hypervisor": {"disk", "host"},
    "network": {"host"},
    "guest": {"host"},
    "web": {"console", "host"},
    "console": {"hypervisor", "host"},
    "share": {"build", "hypervisor", "host"},
    "vsock": {"hypervisor", "host"},
    "build": {"guest", "disk", "host"},  # a guest is built with our agent in it
    "disk": {"host"},
    "host": set(),
    # Single modules at the top. The last four are open to all.
    "__init__": {"vm", "archive", "image", "hypervisor", "network", "guest", "console", "build", "disk", "host"},
    "__main__": {"cli"},
    "settings": set(),
    "errors": set(),
    "units": set(),
    "version": set(),
}
PART_MAY_IMPORT: dict[str, dict[str, set[str]]] = {
    "network": {
        "bridged": {"bridge", "cards", "shared"},
        "bridge": {"cards", "shared", "rules", "policy"},
        "namespace": {"shared", "rules", "policy"},
        "cards": {"shared", "lookup"},
        "user_mode": {"shared"},
        "install": {"shared", "rules"},
        "shared": {"rules"},
        "rules": {"policy"},
        "policy": set(),
        "lookup": set(),
    },
    "image": {
        "push": {"cache", "registry", "format"},
        "pull": {"cache", "registry", "format"},
        "cache": {"format"},
        "registry": {"credentials", "format"},
        "credentials": set(),
        "format": set(),
    },
    "vm": {
        "running": {"planning", "control", "stored"},
        "planning": {"stored"},
        "control": {"stored"},
        "images": {"stored"},
        "stored": set(),
    },
    "guest": {
        "service": {"own_agent", "qga", "rpc"},
        "client": {"service", "own_agent", "rpc"},
        "own_agent": set(),
        "qga": set(),
        "rpc": set(),
    },
}
"""The folders of the large layers. The modules beside them name what all have, or choose between the folders."""

OPEN_TO_ALL = {"errors", "units", "settings", "version"}
NEEDS_NOTHING_OF_OURS = {"errors", "units", "version"}


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_below_it(module: Path) -> None:
    own = layer_of(module)
    allowed = MAY_IMPORT[own] | {own} | (set[str]() if own in NEEDS_NOTHING_OF_OURS else OPEN_TO_ALL)
    wrong = [f"{module}:{line} imports {layer}" for line, layer in layers_imported(module) if layer not in allowed]
    assert not wrong, "\n".join(wrong)


def test_the_table_has_every_layer_and_no_circle() -> None:
    assert {layer_of(module) for module in modules()} - {"__main__"} <= set(MAY_IMPORT)
    order = list(TopologicalSorter(MAY_IMPORT).static_order())
    assert order.index("host") < order.index("disk") < order.index("vm") < order.index("cli")


@pytest.mark.parametrize(
    ("layer", "folder"), [(layer, folder) for layer, parts in PART_MAY_IMPORT.items() for folder in parts]
)
def test_a_part_of_a_layer_imports_only_what_stands_below_it(layer: str, folder: str) -> None:
    parts = PART_MAY_IMPORT[layer]
    used = {name for module in sorted((ROOT / layer / folder).glob("*.py")) for name in folders_imported(module)}
    assert used & parts.keys() <= parts[folder] | {folder}


@pytest.mark.parametrize("layer", sorted(PART_MAY_IMPORT))
def test_a_large_layer_has_these_parts_and_no_circle(layer: str) -> None:
    parts = PART_MAY_IMPORT[layer]
    assert {path.name for path in (ROOT / layer).iterdir() if (path / "__init__.py").exists()} == set(parts)
    list(TopologicalSorter(parts).static_order())


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports in functions and for type checkers count: with them too one is not understood without the other."""
    below = {
        ".".join((PACKAGE, *module.relative_to(ROOT).with_suffix("").parts)): modules_imported(module)
        for module in modules()
    }
    TopologicalSorter(below).prepare()


def test_nothing_imports_the_command_line() -> None:
    assert not [layer for layer, below in MAY_IMPORT.items() if "cli" in below and layer != "__main__"]


@pytest.mark.parametrize(
    "folder",
    sorted({path.parent for path in modules()} - {ROOT}),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_folder_is_a_package_without_code(folder: Path) -> None:
    assert (folder / "__init__.py").read_text().strip() == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import tartlet.vm.store", "tartlet.vm.store"),
        ("from tartlet.vm import stored", "tartlet.vm.stored"),
        ("from tartlet.vm.stored.store import VmStore", "tartlet.vm.stored.store"),
        ("from tartlet import vm", "tartlet.vm"),
        ("from tartlet import open_store", "tartlet"),
        ("def f():\n  from tartlet.cli import main", "tartlet.cli.main"),
        ("if TYPE_CHECKING:\n  from tartlet.cli.main import main", "tartlet.cli.main"),
        ("from ..cli import main", "tartlet.cli.main"),
        ("from . import stored", "tartlet.vm.stored"),
        ("from .. import cli", "tartlet.cli"),
        ("import_module('tartlet.cli')", "tartlet.cli"),
        ("importlib.import_module('tartlet.cli')", "tartlet.cli"),
    ],
)
def test_an_import_is_seen_wherever_it_hides(text: str, expected: str) -> None:
    assert [name for _, name in imports_in(text, "tartlet.vm")] == [expected]


def test_other_packages_are_none_of_this_tests_business() -> None:
    assert list(imports_in("import os, anyio\nfrom tartlets import x", "tartlet.vm")) == []
