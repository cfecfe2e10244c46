"""The packages of whisper_npu and who imports whom, from the imports themselves.

    python -m tools.package_picture            # print it
    python -m tools.package_picture --write    # put it into docs/architecture.md
    python -m tools.package_picture --check    # fail if the document has another one

Each line is a package with those that it imports; all of these stand further down, or else there is
a cycle, which is an error. So are modules that import each other. Needs import-linter's grimp.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

PACKAGE = "whisper_npu"
DOCUMENT = Path(__file__).parents[1] / "docs" / "architecture.md"
BEGIN, END = "<!-- table packages -->\n", "<!-- end -->\n"
# Packages whose parts are shown one by one.
OPENED = ("backends", "backends.npu")
# What every part may import; to draw them would hide the rest.
COMMON = ("errors", "version")

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


def picture(imports: Imports) -> Iterable[str]:
    """The lines of the picture."""
    parts = part_imports(imports)
    width = max(map(len, parts))
    for part in order(parts):
        names = ", ".join(sorted(parts[part]))
        yield f"    {part:<{width}}  {names or '(nothing of the package)'}"


def main(arguments: list[str] | None = None) -> int:
    """Print, write or check the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    args = parser.parse_args(arguments)
    imports = module_imports()
    try:
        order(imports)
        lines = "\n".join(picture(imports)) + "\n"
    except CycleError as error:
        print(f"a cycle: {' -> '.join(error.args[1])}", file=sys.stderr)
        return 1
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    present, _, after = rest.partition(END)
    if args.check:
        return int(present != lines)
    if args.write:
        DOCUMENT.write_text(f"{before}{BEGIN}{lines}{END}{after}", encoding="utf-8")
        return 0
    print(lines, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
