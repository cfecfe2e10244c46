"""The packages of whisper_npu and who imports whom, from the imports themselves.

Each line is a package with those that it imports; all of these stand further down, or else there is
a cycle, which is an error. So are modules that import each other.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter

import grimp

PACKAGE = "whisper_npu"
# Packages whose parts are shown one by one.
OPENED = ("backends",)
# What every part may import; to draw them would hide the rest.
COMMON = ("errors", "terminal", "version")

Imports = Mapping[str, frozenset[str]]


def module_imports() -> Imports:
    """The modules of the package that each module imports."""
    graph = grimp.build_graph(PACKAGE)
    return {
        module: frozenset(graph.find_modules_directly_imported_by(module))
        for module in graph.modules
    }


def part_of(module: str) -> str:
    """The package, or the module of the root, that a module is drawn as."""
    names = module.split(".")[1:]
    part = ""
    for name in names:
        part = f"{part}.{name}" if part else name
        if part not in OPENED:
            break
    return part


def part_imports(imports: Imports) -> Imports:
    """The same for the parts that are drawn, without imports of their own."""
    found: dict[str, set[str]] = {}
    for module, names in imports.items():
        part = part_of(module)
        if part and part not in OPENED and part not in COMMON:
            others = {part_of(name) for name in names} - {part, "", *OPENED, *COMMON}
            found.setdefault(part, set()).update(others)
    return {part: frozenset(names) for part, names in found.items()}


def order(imports: Imports) -> list[str]:
    """The names so that each stands before what it imports. Raises CycleError."""
    sorter: TopologicalSorter[str] = TopologicalSorter(
        {name: sorted(imports[name]) for name in sorted(imports)}
    )
    return list(sorter.static_order())[::-1]


def lines() -> Iterator[str]:
    """The picture. Raises CycleError."""
    imports = module_imports()
    order(imports)
    parts = part_imports(imports)
    width = max(map(len, parts))
    for part in order(parts):
        names = ", ".join(sorted(parts[part])) or "(nothing of the package)"
        yield from textwrap.wrap(
            names,
            100,
            initial_indent=f"    {part:<{width}}  ",
            subsequent_indent=" " * (width + 6),
            break_on_hyphens=False,
        )
