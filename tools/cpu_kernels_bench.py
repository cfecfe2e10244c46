"""What each CPU kernel gains: a model with more and more of them, beside NumPy.

    whisper-npu kernels build
    python tools/cpu_kernels_bench.py --size tiny

One process, all modes interleaved round robin: NumPy in float32 and in int8, then int8 with one
kernel after the other in use, then all kernels with a plainer instruction set. Prints medians, in
milliseconds, of the encoder (one window), of the cross keys and values, and of a step in the middle
of the context (one sequence, and five beams), and the ratio to NumPy in int8. Weights are seeded,
random and in memory only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, sleep

import numpy as np

from whisper_npu.backends.cpu.backend import CpuBackend, open_cpu_backend
from whisper_npu.backends.cpu.build import find_build
from whisper_npu.backends.cpu.library import load_library
from whisper_npu.backends.cpu.records import CpuKernel
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.model.builders import Precision
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.weight_shapes import weight_specification
from whisper_npu.ops.quant import Quantized
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.session import DecoderSession
from whisper_npu.runtime.usage import Usage

# Width, layers and heads.
SIZES = {
    "nano": (64, 2, 2),
    "tiny": (384, 4, 6),
    "base": (512, 6, 8),
    "small": (768, 12, 12),
}
# In the order in which they are added.
NAMES = tuple(
    f"cpu_{name}" for name in (
        "linear_int8", "quantize_rows", "attention", "attention_int16", "quantize_heads",
        "cross_attention_int8", "cached_attention", "gelu", "layer_norm", "add", "im2col",
        "store_cache", "embed_int8",
    )
)  # fmt: skip
BEAMS = 5
_PAUSE = 0.15


@dataclass
class Mode:
    """A model in one way, and what was measured of it, in seconds."""

    name: str
    isa: str
    model: Model
    times: dict[str, list[float]]
    states: np.ndarray
    greedy: DecoderSession | None = None
    beams: DecoderSession | None = None


def checkpoint(size: str) -> Checkpoint:
    """Random weights of the true sizes, as integers where a pulled model has them."""
    width, layers, heads = SIZES[size]
    dims = ModelDimensions(
        n_mels=80, n_audio_ctx=1500, n_audio_state=width, n_audio_head=heads, n_audio_layer=layers,
        n_vocab=51865, n_text_ctx=448, n_text_state=width, n_text_head=heads, n_text_layer=layers,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray | Quantized] = {}
    for name, shape in weight_specification(dims).items():
        if len(shape) > 1 and "positions" not in name:
            scale = np.full(shape[0], 0.5 / 127 / np.sqrt(np.prod(shape[1:])), np.float32)
            weights[name] = Quantized(rng.integers(-127, 128, shape, np.int8), scale)
        else:
            weights[name] = rng.standard_normal(shape, np.float32)
    return Checkpoint(Path(), dims, {}, {}, weights)


def modes(loaded: Checkpoint, names: Sequence[str]) -> list[Mode]:
    """All that are compared, of which ``names`` are wanted (all, if there are none)."""
    opened = open_cpu_backend(Usage(), required=True)
    build = find_build()
    assert opened is not None
    assert build is not None
    library = load_library(build.path)
    library.threads = int(os.environ.get("OMP_NUM_THREADS", "2"))

    by_name = {kernel.name: kernel for kernel in opened.kernels}
    wanted: list[tuple[str, Precision, str, Sequence[CpuKernel]]] = [
        ("NumPy float32", "float32", library.isa, ()),
        ("NumPy int8", "int8", library.isa, ()),
    ]
    for count, last in enumerate(NAMES, 1):
        some = [by_name[name] for name in NAMES[:count] if name in by_name]
        wanted.append((f"+ {last.removeprefix('cpu_')}", "int8", library.isa, some))
    wanted.append(("all kernels", "int8", library.isa, opened.kernels))
    wanted.append(("all, float32", "float32", library.isa, opened.kernels))
    for isa in library.isas[:-1]:
        there = [kernel for kernel in opened.kernels if library.has(kernel.name, isa)]
        wanted.append((f"all, {isa}", "int8", isa, there))
    found = []
    rng = np.random.default_rng(1)
    dims = loaded.dims
    features = rng.standard_normal((1, dims.n_mels, dims.n_frames), np.float32)
    for name, precision, isa, kernels in wanted:
        if names and name not in names:
            continue
        usage = Usage(precision=precision)
        cpu = [CpuBackend(library, kernels, usage)] if kernels else []
        machine = Machine((*cpu, *numpy_backends()), usage=usage)
        model = Model(loaded, precision, machine)
        found.append(Mode(name, isa, model, {}, features))
    return found


def measure(mode: Mode, steps: int) -> None:
    """One round."""
    build = find_build()
    assert build is not None
    load_library(build.path).choose_isa(mode.isa)
    features = mode.states
    times = mode.times

    def timed(what: str, action: Callable[[], object]) -> None:
        began = perf_counter()
        action()
        times.setdefault(what, []).append(perf_counter() - began)

    # The threads of NumPy's library look for work for a while before they sleep.
    sleep(_PAUSE)
    mode.model.encode(features)
    states: list[np.ndarray] = []
    timed("encoder", lambda: states.append(mode.model.encode(features)))
    timed("cross", lambda: mode.model.decoder(states[0], 1))
    for what, group in (("step", 1), ("beams", BEAMS)):
        session = mode.model.decoder(states[0], group)
        session.prefill([[1, 2, 3, 4]], [3])
        session.position = 200
        tokens = np.arange(group) + 7
        session.step(tokens)
        for _ in range(steps):
            timed(what, partial(session.step, tokens))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps of a round")
    parser.add_argument("--mode", action="append", default=[], help="only these, by name")
    args = parser.parse_args()
    found = modes(checkpoint(args.size), args.mode)
    for mode in found:
        # This makes the plans.
        measure(mode, 1)
        mode.times.clear()
    for _ in range(args.rounds):
        for mode in found:
            measure(mode, args.steps)
    stages = ("encoder", "cross", "step", "beams")
    medians = [{s: 1e3 * statistics.median(mode.times[s]) for s in stages} for mode in found]
    base = next(
        (m for m, mode in zip(medians, found, strict=True) if mode.name == "NumPy int8"), None
    )
    print(f"{'ms':<22}" + "".join(f"{stage:>10}{'ratio':>7}" for stage in stages))
    for mode, median in zip(found, medians, strict=True):
        cells = [
            f"{median[s]:>10.2f}" + (f"{median[s] / base[s]:>7.2f}" if base else " " * 7)
            for s in stages
        ]
        print(f"{mode.name:<22}" + "".join(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
