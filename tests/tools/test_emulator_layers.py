"""The C files of the NPU emulator are layers: no circle of includes, none of calls."""

import re
import shutil
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

EMULATOR = Path(__file__).parents[2] / "tools/npu_emulator"
SOURCES = sorted((EMULATOR / "src").glob("*.c"))

# file without its ending -> the files that it uses
Uses = dict[str, set[str]]


def circle(uses: Uses) -> list[str]:
    """The files of one circle, the first one again at the end; empty if there is none."""
    try:
        TopologicalSorter(uses).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def includes() -> Uses:
    """X uses Y where X.c or X.h includes Y.h."""
    uses: Uses = {}
    for path in (EMULATOR / "src").glob("*.[ch]"):
        headers = re.findall(r'^#include "(\w+)\.h"$', path.read_text(), re.MULTILINE)
        uses.setdefault(path.stem, set()).update(set(headers) - {path.stem})
    return uses


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Uses:
    """X uses Y where X.o wants a symbol that Y.o defines, libc's names among them."""
    for tool in ("make", "cc", "nm"):
        if not shutil.which(tool):
            pytest.skip(f"no {tool} here")
    build = tmp_path_factory.mktemp("emulator")
    objects = [build / f"{path.stem}.o" for path in SOURCES]
    subprocess.run(["make", "-s", f"BUILD={build}", *map(str, objects)], cwd=EMULATOR, check=True)
    defined: dict[str, str] = {}
    wanted: dict[str, set[str]] = {}
    for path in objects:
        wanted[path.stem] = set()
        lines = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
        for *_, kind, symbol in map(str.split, lines.splitlines()):
            if kind == "U":
                wanted[path.stem].add(symbol)
            elif kind.isupper():
                defined[symbol] = path.stem
    return {file: {defined[s] for s in symbols if s in defined} for file, symbols in wanted.items()}


def test_the_search_finds_a_circle() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert sorted(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})[1:]) == ["a", "b", "c"]


def test_includes_have_no_circle(includes: Uses) -> None:
    assert len(SOURCES) > 10
    assert circle(includes) == []


def test_calls_have_no_circle(calls: Uses) -> None:
    assert "bo" in calls["context"]
    assert circle(calls) == []


def test_what_a_file_calls_is_in_a_header_that_it_includes(includes: Uses, calls: Uses) -> None:
    hidden = {file: used - includes[file] for file, used in calls.items()}
    assert {file: used for file, used in hidden.items() if used} == {}


def test_the_readme_lists_the_layers(includes: Uses) -> None:
    text = (EMULATOR / "README.md").read_text()
    table = text[text.index("| file | |") :].split("\n\n")[0]
    layers = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    assert sorted(file for layer in layers for file in layer) == sorted(includes)
    for depth, layer in enumerate(layers):
        below = {file for lower in layers[depth + 1 :] for file in lower}
        assert {file: includes[file] - below for file in layer} == {file: set() for file in layer}
