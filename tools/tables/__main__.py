"""Make the tables of the documents again.

    python -m tools.tables                        # print all of them
    python -m tools.tables parity npu_traffic     # these
    python -m tools.tables npu_traffic --write    # and put them into the documents
    python -m tools.tables --check                # are the counted tables up to date?

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->`` in one of the documents; the
module NAME of this package makes it. Counted tables are the same on every machine. Measured ones
begin with the date and the machine; some of them take hours.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from graphlib import CycleError
from importlib import import_module
from pathlib import Path
from subprocess import CalledProcessError

import numpy as np

from tools.bench.machine import describe
from tools.measuring import REPOSITORY
from whisper_npu.errors import WhisperNpuError

COUNTED = ("packages", "npu_limits", "npu_traffic")
MEASURED = (
    "parity",
    "log_mel",
    "quantisation",
    "quantisation_peers",
    "accuracy",
    "speech",
    "start",
    "npu_times",
    "launch_overhead",
    "runtimes",
    "lengths",
    "cpu_kernels",
    "numpy_int8",
    "loading",
    "conversion",
    "kernel_stack",
)
NAMES = (*COUNTED, *MEASURED)
DOCUMENTS = (*sorted(REPOSITORY.glob("docs/*.md")), REPOSITORY / "kernels" / "src" / "README.md")
# Packages that only some tables need, and what installs them.
INSTALLED_BY = {
    "whisper": "make test-reference",
    "torch": "make test-reference",
    "ctranslate2": "pip install ctranslate2",
    "grimp": "make test",
    "pywhispercpp": "pip install pywhispercpp==1.5.1",
}
_BLOCK = re.compile(r"(<!-- table (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


class TableError(Exception):
    """A table cannot be made or put into its document."""


def machine() -> str:
    """The date and what figures depend on."""
    found = describe()
    kernel = found["kernel"].partition("-")[0]
    return (
        f"{datetime.now(timezone.utc):%Y-%m-%d}: {found['cpu']}, {found['cpus']} CPUs "
        f"({', '.join(found['instructions']) or 'no AVX2'}), {found['memory_gib']} GiB, "
        f"{kernel}, Python {platform.python_version()}, NumPy {np.__version__}."
    )


def make(name: str) -> str:
    """The text of a table. Raises TableError where something is missing for it."""
    try:
        lines = list(import_module(f"tools.tables.{name}").lines())
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in INSTALLED_BY:
            raise
        raise TableError(f"{name} needs {package}: {INSTALLED_BY[package]} installs it") from error
    except (CalledProcessError, CycleError, WhisperNpuError) as error:
        raise TableError(f"{name}: {error}") from error
    if name in MEASURED:
        lines = [machine(), "", *lines]
    return "\n".join(lines) + "\n"


def find(name: str, documents: Sequence[Path]) -> tuple[Path, str]:
    """The document that has the table, and what stands there. Raises TableError."""
    found = [
        (path, block.group(3))
        for path in documents
        for block in _BLOCK.finditer(path.read_text(encoding="utf-8"))
        if block.group(2) == name
    ]
    if len(found) != 1:
        raise TableError(
            f"{len(found)} documents have a table {name}: one of them must have the lines "
            f"<!-- table {name} --> and <!-- end -->"
        )
    return found[0]


def write(name: str, text: str, documents: Sequence[Path]) -> None:
    """Replace the table in its document. Raises TableError if none has it."""
    path, _ = find(name, documents)

    def replaced(block: re.Match[str]) -> str:
        if block.group(2) != name:
            return block.group(0)
        return f"{block.group(1)}\n{text}\n{block.group(4)}"

    path.write_text(_BLOCK.sub(replaced, path.read_text(encoding="utf-8")), encoding="utf-8")


def check(name: str, text: str, documents: Sequence[Path]) -> None:
    """Raise TableError if the document has another table than this."""
    path, there = find(name, documents)
    if there.strip() != text.strip():
        raise TableError(
            f"{path}: the table {name} is out of date: python -m tools.tables {name} --write"
        )


def main(arguments: Sequence[str] | None = None, documents: Sequence[Path] = DOCUMENTS) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="put the tables into the documents")
    action.add_argument("--check", action="store_true", help="fail if a table is out of date")
    args = parser.parse_args(arguments)
    for name in args.names:
        if name not in NAMES:
            parser.error(f"there is no table {name}; there are {', '.join(NAMES)}")
        if args.check and name in MEASURED:
            parser.error(f"--check: {name} is measured, and never the same twice")
    failed = False
    for name in args.names or (COUNTED if args.check else NAMES):
        try:
            text = make(name)
            if args.check:
                check(name, text, documents)
                continue
            print(f"{name}\n\n{text}", flush=True)
            if args.write:
                write(name, text, documents)
        except TableError as error:
            print(f"tables: {error}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
