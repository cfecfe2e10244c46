"""Batches on the CPU kernels: each window to the bit what it is alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import Recipe
from tests.unit.random_sessions import check_together
from whisper_npu.backends.machine_options import MachineOptions
from whisper_npu.backends.opening import open_machine
from whisper_npu.model.checkpoint import Checkpoint, load_checkpoint
from whisper_npu.model.precision import PRECISIONS, Precision
from whisper_npu.runtime.model import Model

# Rounding of a few dozen operations, of logits up to 100.
FLOATS = 2e-4


def open_model(checkpoint: Checkpoint, precision: Precision) -> Model:
    options = MachineOptions(precision=precision, cpu_kernels=True)
    machine = open_machine(None, checkpoint.dims, options, int8_weights=True)
    return Model(checkpoint, precision, machine)


@pytest.mark.parametrize("group", [1, 3])
def test_a_window_of_a_batch_is_to_the_bit_what_it_is_alone(
    cpu_home: Path, seeded_directory: Callable[[Recipe], Path], group: int
) -> None:
    checkpoint = load_checkpoint(seeded_directory(Recipe("nano")))
    dims = checkpoint.dims
    model = open_model(checkpoint, "int8")
    rng = np.random.default_rng(0)
    features = rng.standard_normal((5, dims.n_mels, dims.n_frames), np.float32)
    prompt, nexts = rng.integers(0, 50, (5, 3)), rng.integers(0, 50, (4, 5, group))
    order = rng.integers(0, group, (5, group))

    def logits(windows: list[int]) -> np.ndarray:
        """Of every step, for windows that are decoded together; half of five leave."""
        session = model.decoder(model.encode(features[windows]), group)
        found = [np.repeat(session.prefill(prompt[windows], [2])[:, 0], group, axis=0)]
        for step in range(4):
            n = len(windows)
            session.reorder((order[windows] + group * np.arange(n)[:, None]).ravel())
            found.append(session.step(nexts[step, windows].ravel()).copy())
            if step == 1 and n > 1:
                session.keep(np.array([0, 2, 4]))
                windows = [windows[i] for i in (0, 2, 4)]
        return np.concatenate([rows[:group] for rows in found] + [rows[-group:] for rows in found])

    together = logits([0, 1, 2, 3, 4])
    alone = [logits([window]) for window in (0, 4)]
    half = len(together) // 2
    assert np.array_equal(together[:half], alone[0][:half])
    assert np.array_equal(together[half:], alone[1][half:])


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_windows_of_sessions_that_join_are_what_they_are_alone(
    cpu_home: Path,
    seeded_directory: Callable[[Recipe], Path],
    precision: Precision,
    group: int,
) -> None:
    """At positions of their own, in any slots. Integers are so to the bit; products of float32 are
    those of BLAS, which adds up rows in an order that depends on how many there are."""
    checkpoint = load_checkpoint(seeded_directory(Recipe("nano")))
    random = np.random.RandomState(group)
    model, other = open_model(checkpoint, precision), open_model(checkpoint, precision)
    check_together(model, other, random, group, 0 if precision == "int8" else FLOATS)
    used = model.machine.usage.placement(model.machine.usage.counts)
    kinds = {
        "float32": ("store_cache", "cached_attention", "cross_attention"),
        "int8": ("store_int16", "cached_attention_int16", "cross_attention_int32", "embed_int32"),
    }[precision]
    for kind in kinds:
        assert used.ops[kind].keys() == {f"cpu_{kind}"}
    assert used.fallbacks == ()
