"""What loading takes: with a packed file, where one is made, and where none can be kept.

Each time in a process of its own, in which only the package and NumPy are imported before.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.support.real import data
from tools.markdown import markdown_table
from tools.measuring import by_turns, in_new_process

RUNS = 7
PRECISIONS = ("float32", "int8")

LOAD = """
import sys, time
from whisper_npu import Transcriber
model, precision = sys.argv[1:]
began = time.perf_counter()
Transcriber(model, precision=precision, cpu_kernels=False)
print(time.perf_counter() - began)
"""


def load(model: Path, precision: str, home: Path) -> float:
    """Seconds."""
    taken: float = in_new_process(
        LOAD, model, precision, environment={"WHISPER_NPU_HOME": str(home)}
    )
    return taken


def load_first(model: Path, precision: str) -> float:
    """Seconds with a cache that is empty."""
    with tempfile.TemporaryDirectory() as home:
        return load(model, precision, Path(home))


def measure(model: Path, precision: str, runs: int) -> dict[str, list[float]]:
    """Seconds of each run, by where the weights come from."""
    with tempfile.TemporaryDirectory() as root:
        home = Path(root, "home")
        load(model, precision, home)
        no_folder = Path(root, "file")
        no_folder.touch()
        return by_turns(
            {
                "from the packed file": partial(load, model, precision, home),
                "first time, which makes it": partial(load_first, model, precision),
                "where it cannot be kept": partial(load, model, precision, no_folder / "home"),
            },
            runs,
        )


def lines() -> Iterator[str]:
    rows, titles = [], []
    for name in data.MODELS:
        for precision in PRECISIONS:
            dtype = "int8" if precision == "int8" else "float16"
            found = measure(data.converted(name, dtype), precision, RUNS)
            titles = list(found)
            medians = (f"{1e3 * statistics.median(runs):.0f}" for runs in found.values())
            rows.append([f"{name}, {precision}", *medians])
    yield f"ms, medians of {RUNS} processes, on NumPy, files of INT8 or float16."
    yield ""
    yield from markdown_table(["model", *titles], rows)
