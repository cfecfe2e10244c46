"""What converting a large model takes: peak memory, time, resulting size.

    python tools/conversion_memory.py --size large-v3 [--stored float16]

writes a checkpoint of that size with random weights, tensor by tensor, converts it to INT8 in a
process of its own, and compares that process's peak memory with the same process before it
converts and with the largest tensor.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.support.checkpoints import DTYPES, Recipe, config_json, write_checkpoint, write_weights
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.model.weight_shapes import weight_specification

POOL = 1 << 22  # random values, repeated to fill tensors


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
    return max(math.prod(shape) for shape in specification.values()) * DTYPES[stored]


def peak_bytes() -> int:
    """Peak resident memory of this process (Linux)."""
    # Not getrusage: its figure survives exec, and so includes that of the parent.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def convert_here(source: Path, dest: Path) -> None:
    """Convert and print what it took, as JSON."""
    from whisper_npu.convert import convert

    base, began = peak_bytes(), time.perf_counter()
    report = convert(source, dest)
    seconds = time.perf_counter() - began
    print(json.dumps([base, peak_bytes(), seconds, report.nbytes]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="large-v3", choices=KNOWN_DIMENSIONS)
    parser.add_argument("--stored", default="float16", choices=DTYPES)
    parser.add_argument("--convert", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.convert:
        convert_here(*args.convert)
        return
    with tempfile.TemporaryDirectory() as root:
        source, dest = Path(root, "source"), Path(root, "dest")
        source.mkdir()
        largest = write_random(source, args.size, args.stored)
        size = (source / "model.safetensors").stat().st_size
        command = [sys.executable, __file__, "--convert", str(source), str(dest)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    base, peak, seconds, nbytes = json.loads(done.stdout)
    above = peak - base
    print(
        f"{args.size} from {args.stored}, {size / 1e9:.2f} GB -> int8, {nbytes / 1e9:.2f} GB in "
        f"{seconds:.0f} s\npeak memory {above / 1e6:.0f} MB above the base process "
        f"({base / 1e6:.0f} MB); largest tensor {largest / 1e6:.0f} MB; ratio {above / largest:.2f}"
    )


if __name__ == "__main__":
    main()
