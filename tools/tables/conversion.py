"""What converting a model to INT8 takes: peak memory, time, resulting size.

Converts tiny.en and base as they were published, and random weights of the size of large-v3, which
are written tensor by tensor. Each is converted in a process of its own, whose peak memory is
compared with the same process before it converts and with the largest tensor.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.support.checkpoints import DTYPES, Recipe, config_json, write_checkpoint, write_weights
from tests.support.real import data
from tools.markdown import markdown_table
from tools.measuring import in_new_process
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.model.weight_shapes import weight_specification

LARGE, STORED = "large-v3", "float16"
WEIGHTS = ("model.bin", "model.safetensors")
POOL = 1 << 22  # random values, repeated to fill tensors

CONVERT = """
import json, sys, time
from pathlib import Path
from tools.bench.machine import peak_memory_mb
from whisper_npu.convert import convert
before, began = peak_memory_mb(), time.perf_counter()
report = convert(Path(sys.argv[1]), Path(sys.argv[2]), calibrate=False)
seconds = time.perf_counter() - began
print(json.dumps([report.nbytes, seconds, before, peak_memory_mb()]))
"""


class Run(NamedTuple):
    """Bytes of the files and of the largest tensor as stored; memory in MiB."""

    source: int
    largest: int
    result: int
    seconds: float
    before_mib: float
    peak_mib: float

    @property
    def ratio(self) -> float:
        """What converting took beyond the base process, to the largest tensor."""
        return (self.peak_mib - self.before_mib) * 2**20 / self.largest


def write_random(folder: Path, size: str, stored: str) -> int:
    """A checkpoint of random weights; returns the bytes of its largest tensor as stored."""
    dims = KNOWN_DIMENSIONS[size]
    # Vocabulary and configuration of a small one: ids that the vocabulary lacks are never used.
    write_checkpoint(Recipe("nano", seed=1), folder)
    config = json.loads((folder / "config.json").read_text())
    names = Recipe(size, seed=1)
    config |= {**config_json(names), "vocab_size": dims.n_vocab}
    (folder / "config.json").write_text(json.dumps(config))
    specification = weight_specification(dims)
    pool = np.random.default_rng(1).standard_normal(POOL, dtype=np.float32)
    weights = (
        (name, np.resize(pool, math.prod(shape)).reshape(shape))
        for name, shape in specification.items()
    )
    write_weights(dims, weights, folder, stored)
    return _largest(specification, stored)


def measure(source: Path, largest: int) -> Run:
    """Convert a folder whose largest tensor has so many bytes."""
    nbytes = sum(file.stat().st_size for file in source.iterdir() if file.name in WEIGHTS)
    with tempfile.TemporaryDirectory() as root:
        return Run(nbytes, largest, *in_new_process(CONVERT, source, Path(root, "dest")))


def measure_random(size: str, stored: str = STORED) -> Run:
    """Write a checkpoint of random weights and convert it."""
    with tempfile.TemporaryDirectory() as root:
        source = Path(root)
        return measure(source, write_random(source, size, stored))


def measure_published(name: str) -> Run:
    """Convert one of ``data.MODELS``."""
    dims = KNOWN_DIMENSIONS[name]
    return measure(data.weights(name), _largest(weight_specification(dims), STORED))


def _largest(specification: Mapping[str, tuple[int, ...]], stored: str) -> int:
    return max(math.prod(shape) for shape in specification.values()) * DTYPES[stored]


def lines() -> Iterator[str]:
    runs = {name: measure_published(name) for name in data.MODELS}
    runs[f"{LARGE}, random"] = measure_random(LARGE)
    rows = []
    for name, run in runs.items():
        rows.append([
            name, f"{run.source / 1e9:.2f}", f"{run.result / 1e9:.2f}", f"{run.seconds:.1f}",
            f"{run.before_mib:.0f}", f"{run.peak_mib - run.before_mib:.0f}", f"{run.ratio:.2f}",
        ])  # fmt: skip
    titles = ("s", "base process, MiB", "peak above it, MiB", "to the largest tensor")
    yield from markdown_table(["model", f"{STORED}, GB", "INT8, GB", *titles], rows)
