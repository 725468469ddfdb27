"""What a module of this package imports of this package, read from its text: nothing is executed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "tartlet"
ROOT = Path(__file__).parent.parent / "src" / PACKAGE


def modules() -> list[Path]:
    """Every module of the package, in a stable order."""
    return sorted(ROOT.rglob("*.py"))


def layer_of(module: Path) -> str:
    """The folder a module stands in, or its own name when it stands at the top: `vm`, `errors`."""
    inside = module.relative_to(ROOT)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports_in(text: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything of ours that `text` imports, wherever the import stands.

    `package` is the dotted name of the package that the text belongs to, for relative imports. Imports inside
    functions and under `TYPE_CHECKING` count, and so do names given to `import_module` as a plain string.
    """
    for node in ast.walk(ast.parse(text)):
        for name in _names(node, package):
            if name == PACKAGE or name.startswith(f"{PACKAGE}."):
                yield node.lineno if isinstance(node, ast.stmt | ast.expr) else 0, name


def layers_imported(module: Path) -> Iterator[tuple[int, str]]:
    """Line and layer of each import of ours in `module`."""
    package = ".".join((PACKAGE, *module.relative_to(ROOT).parent.parts))
    for line, name in imports_in(module.read_text(), package):
        yield line, name.split(".")[1] if "." in name else "__init__"


def modules_imported(module: Path) -> set[str]:
    """The dotted names of everything of ours that a module imports."""
    package = ".".join((PACKAGE, *module.relative_to(ROOT).parent.parts))
    return {name for _, name in imports_in(module.read_text(), package)}


def folders_imported(module: Path) -> Iterator[str]:
    """Of each import of ours in a module of a folder within a layer: the third word of its dotted name."""
    package = ".".join((PACKAGE, *module.relative_to(ROOT).parent.parts))
    for _, name in imports_in(module.read_text(), package):
        layer, _, inner = name.removeprefix(f"{PACKAGE}.").partition(".")
        if layer == module.relative_to(ROOT).parts[0] and inner:
            yield inner.split(".")[0]


def _names(node: ast.AST, package: str) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            base = _base(package, module, level)
            # `from tartlet import vm` imports tartlet.vm; a name that is no module is one of the package itself.
            yield from (f"{base}.{alias.name}" if _is_part(base, alias.name) else base for alias in names)
        case ast.Call(func=ast.Name("import_module") | ast.Attribute(attr="import_module"), args=[ast.Constant(value)]):
            yield str(value)
        case _:
            pass


def _base(package: str, module: str | None, level: int) -> str:
    if level == 0:
        return module or ""
    above = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*above, module] if module else above)


def _is_part(package: str, name: str) -> bool:
    inside = Path(ROOT.parent, *package.split("."), name)
    return inside.is_dir() or inside.with_suffix(".py").exists()
