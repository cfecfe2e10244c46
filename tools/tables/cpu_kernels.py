"""What each CPU kernel gains: tiny.en with more and more of them, beside NumPy.

One process, all modes by turns: NumPy in float32 and in int8, then int8 with one kernel after the
other in use, then all kernels with a plainer instruction set. Medians, in milliseconds, of the
encoder (one window), of the cross keys and values, and of a step in the middle of the context (one
sequence, and five beams), and the ratio to NumPy in int8. Weights are tiny.en's, speech is a
President's. Needs the kernels that ``whisper-npu kernels build`` makes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import sleep

import numpy as np

from tests.support.real import data
from tools.markdown import markdown_table
from tools.measuring import by_turns, seconds
from tools.tables.peers.real_inputs import inputs
from whisper_npu.backends.cpu.backend import CpuBackend, UsableKernels, usable_kernels
from whisper_npu.backends.cpu.build import find_build
from whisper_npu.backends.cpu.library import load_library
from whisper_npu.backends.cpu.records import CpuKernel
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.model.checkpoint import Checkpoint, load_checkpoint
from whisper_npu.model.precision import Precision
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.threads import default_threads
from whisper_npu.runtime.usage import Usage

MODEL, ROUNDS, STEPS = "tiny.en", 5, 20  # steps of a round
# In the order in which they are added.
NAMES = tuple(
    f"cpu_{name}" for name in (
        "product_int8", "quantize_int32", "rms_norm", "attention_int32", "attention_int8",
        "quantize_columns", "cross_attention_int32", "cached_attention_int16", "gelu_int32",
        "add_int32", "im2col", "store_int16", "embed_int32", "logits_float",
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
    features: np.ndarray  # float32 [1, n_mels, n_frames]
    times: dict[str, list[float]]


def modes(loaded: Checkpoint) -> list[Mode]:
    """All that are compared."""
    opened = usable_kernels()
    if isinstance(opened, str):
        raise SystemExit(opened)
    library = opened.library
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
        wanted.append((f"all, {isa}", "int8", isa, opened.kernels))
    found = []
    features = inputs(MODEL).features[None]
    for name, precision, isa, kernels in wanted:
        usage = Usage(precision=precision)
        cpu = [CpuBackend(UsableKernels(library, tuple(kernels)), usage)] if kernels else []
        machine = Machine((*cpu, *numpy_backends()), usage=usage)
        model = Model(loaded, precision, machine)
        found.append(Mode(name, isa, model, features, {}))
    return found


def measure(mode: Mode, steps: int) -> None:
    """One round."""
    build = find_build()
    assert build is not None
    load_library(build.path).choose_isa(mode.isa)
    times, model = mode.times, mode.model

    def timed(what: str, action: Callable[[], object]) -> None:
        times.setdefault(what, []).append(seconds(action))

    # The threads of NumPy's library look for work for a while before they sleep.
    sleep(_PAUSE)
    states = model.encode(mode.features)
    timed("encoder", lambda: model.encode(mode.features))
    timed("cross keys and values", lambda: model.decoder(states, 1))
    for what, group in (("step", 1), (f"{BEAMS} beams", BEAMS)):
        session = model.decoder(states, group)
        session.prefill([[1, 2, 3, 4]], [3])
        session.positions[:] = 200
        tokens = np.arange(group) + 7
        session.step(tokens)
        for _ in range(steps):
            timed(what, partial(session.step, tokens))


def lines() -> Iterator[str]:
    found = modes(load_checkpoint(data.converted(MODEL, "int8")))
    for mode in found:
        # This makes the plans.
        measure(mode, 1)
        mode.times.clear()
    by_turns({mode.name: partial(measure, mode, STEPS) for mode in found}, ROUNDS)
    medians = {
        mode.name: {what: 1e3 * statistics.median(times) for what, times in mode.times.items()}
        for mode in found
    }
    base = medians["NumPy int8"]
    rows = [
        [name, *(f"{value:.3g} ({value / base[what]:.2f})" for what, value in median.items())]
        for name, median in medians.items()
    ]
    yield f"{MODEL}, {default_threads()} threads; ms (ratio to NumPy int8)."
    yield ""
    yield from markdown_table(["", *base], rows)
