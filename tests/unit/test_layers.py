"""Packages form layers; pyproject.toml names them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "whisper_npu"


def test_no_package_imports_one_above_it() -> None:
    # As pyproject.toml has it: the tool reads the configuration of the folder that it runs in.
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", script, "--no-cache"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "2 kept, 0 broken" in found.stdout


def imported(folder: Path) -> Iterator[tuple[Path, str]]:
    """The modules that files import, wherever in the file, by name or by ``import_module``."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield path, node.module
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                yield path, ast.unparse(node.args[0]).strip("'\"")


def test_pyxrt_is_imported_in_one_place() -> None:
    found = [path for path, name in imported(PACKAGE) if name.partition(".")[0] == "pyxrt"]
    assert [path.relative_to(PACKAGE).as_posix() for path in found] == [
        "backends/npu/xrt/detect.py"
    ]


def test_ops_and_model_need_numpy_and_safetensors_alone() -> None:
    for folder in ("ops", "model"):
        names = {name.partition(".")[0] for _, name in imported(PACKAGE / folder)}
        foreign = names - set(sys.stdlib_module_names) - {"whisper_npu"}
        assert foreign <= {"numpy", "safetensors"}
        assert "numpy" in names
