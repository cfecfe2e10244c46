"""Checks: a kernel that begins to lie is found, and not used any more."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.unit.accelerated import (
    DIMS,
    LARGE,
    OPS,
    SMALL,
    TIMELINE,
    accelerated,
    all_but,
    everywhere,
    fallbacks,
    numpy_model,
    ran,
    run_windows,
    same,
)
from whisper_npu.backends.npu.families.gemm import product_shape
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.model.builders import build_phase


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return run_windows(numpy_model())


def flip(start: int) -> Callable[[int, Sequence[np.ndarray]], None]:
    """From a launch on, the first sum is wrong by one."""

    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        if count >= start:
            outputs[0].view(np.int32)[0] += 1

    return corrupt


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_a_kernel_that_begins_to_lie_is_quarantined(rate: float, seed: int) -> None:
    start = 10
    drawn = random.Random(seed)
    checked = [i for i in range(1000) if drawn.random() < rate]
    caught = next(i for i in checked if i >= start)
    device = SoftwareDevice(corrupt=flip(start))
    model = accelerated(everywhere(LARGE), device, check_rate=rate, seed=seed, proving=False)
    reference = numpy_model()
    numbers = 0
    while numbers <= caught + 3 * len(TIMELINE):
        numbers += len(TIMELINE)
        found, exact = run_windows(model), run_windows(reference)
    assert device.traffic.launches == model.machine.usage.counts.launches == caught + 1
    assert model.machine.usage.counts.checks == len([i for i in checked if i <= caught])
    assert same(found, exact)
    assert len(fallbacks(model)) == len(OPS)
    assert {f[:2] for f in fallbacks(model)} == set(OPS)
    assert {f[2:] for f in fallbacks(model)} == {(LARGE.contract.name, "wrong result")}
    discovered = model.machine.usage.fallbacks[0]
    assert (discovered.phase, discovered.op) == TIMELINE[caught % len(TIMELINE)]
    assert f"1 of {sums(*TIMELINE[caught % len(TIMELINE)])} sums" in discovered.detail
    assert ran(model)[LARGE.contract.name] == caught


@pytest.mark.parametrize("start", range(0, len(TIMELINE), 3))
def test_results_with_a_liar_are_those_without(start: int, expected: list[np.ndarray]) -> None:
    """Each launch is proven before anything is made of it."""
    device = SoftwareDevice(corrupt=flip(start))
    model = accelerated(everywhere(LARGE), device)
    assert same(run_windows(model), expected)
    counts = model.machine.usage.counts
    assert device.traffic.launches == counts.launches == counts.proofs == start + 1
    assert counts.checks == 0
    assert {f[2:] for f in fallbacks(model)} == {(LARGE.contract.name, "wrong result")}
    discovered = model.machine.usage.fallbacks[0]
    assert (discovered.phase, discovered.op) == TIMELINE[start]
    assert "checksums of 1 of" in discovered.detail


def test_a_kernel_that_lies_in_1_of_10_000_outputs_is_quarantined_in_time() -> None:
    """After as many launches as a check rate and the sizes of products make one expect."""
    rate, share = 0.25, 1e-4
    chances = [rate * (1 - (1 - share) ** sums(*op)) for op in TIMELINE]
    left, expected = 1.0, 0.0
    while left > 1e-9:
        for chance in chances:
            expected, left = expected + left, left * (1 - chance)

    def launches(seed: int) -> int:
        rng = np.random.default_rng(seed)

        def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
            numbers = outputs[0].view(np.int32)
            numbers[rng.random(numbers.size) < share] ^= 1

        model = accelerated(
            everywhere(SMALL),
            SoftwareDevice(corrupt=corrupt),
            check_rate=rate,
            seed=seed,
            proving=False,
        )
        while not model.machine.usage.fallbacks:
            run_windows(model)
        return model.machine.usage.counts.launches

    found = [launches(seed) for seed in range(24)]
    # The mean of 24 that vary by as much as they are: three standard deviations.
    assert expected > 2 / rate
    assert float(np.mean(found)) == pytest.approx(expected, rel=0.6)


def sums(phase: str, name: str) -> int:
    graph = build_phase(phase, DIMS, 3, "int8")
    (op,) = (op for op in graph.ops if op.name == name)
    m, _, n = product_shape(graph, op)
    # Two rows of logits are asked of the prompt.
    rows = 2 if (phase, name) == ("prefill", "fixed_logits") else 1
    return rows * m * n


def test_the_op_that_was_checked_gets_the_right_result(expected: list[np.ndarray]) -> None:
    device = SoftwareDevice(corrupt=flip(0))
    model = accelerated(everywhere(LARGE), device, check_rate=1.0, proving=False)
    assert same(run_windows(model), expected)
    assert model.machine.usage.counts.launches == 1


def test_a_lie_of_one_kernel_leaves_the_other(expected: list[np.ndarray]) -> None:
    def corrupt(count: int, outputs: Sequence[np.ndarray]) -> None:
        # Only one op is on the small kernel, with 16 rows.
        if outputs[0].nbytes == 4 * 16 * 64:
            outputs[0].view(np.int32)[0] -= 1

    device = SoftwareDevice(corrupt=corrupt)
    model = accelerated(all_but("step", "decoder.0.q"), device, check_rate=1.0)
    assert same(run_windows(model), expected)
    assert fallbacks(model) == [("step", "decoder.0.q", SMALL.contract.name, "wrong result")]
    # Every launch but one of the four of that op.
    assert model.machine.usage.counts.launches == len(TIMELINE) - 3


def test_without_checks_nothing_is_compared() -> None:
    model = accelerated(everywhere(LARGE), SoftwareDevice(corrupt=flip(0)), proving=False)
    run_windows(model)
    assert (model.machine.usage.counts.checks, fallbacks(model)) == (0, [])
