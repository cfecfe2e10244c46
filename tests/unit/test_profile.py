"""The times of regions: which count, and that they add up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from whisper_npu.backends.opening import numpy_machine
from whisper_npu.model.builders import build_encoder, build_step
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.precision import PRECISIONS
from whisper_npu.runtime import profile
from whisper_npu.runtime.placement import Forms
from whisper_npu.runtime.profile import Profile

DIMS = ModelDimensions(80, 10, 64, 1, 1, 100, 16, 64, 1, 1)
OUTPUT = np.empty(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes where a test says so."""
    now = [0.0]
    monkeypatch.setattr(profile, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def encoder() -> Profile:
    graph = build_encoder(DIMS)
    return Profile(graph, numpy_machine().place(graph, Forms()))


def watch(encoder: Profile, clock: list[float], seconds: float) -> None:
    """A run in which every region takes so long, and the first two times as long."""
    encoder.begin()
    clock[0] += seconds
    for op in build_encoder(DIMS).ops:
        clock[0] += seconds
        encoder(op.name, OUTPUT)


def test_times_are_by_kind_and_shape_and_add_up(encoder: Profile, clock: list[float]) -> None:
    watch(encoder, clock, 0.5)
    times = encoder.times()
    ops = build_encoder(DIMS).ops
    assert sum(each.seconds for each in times) == pytest.approx(0.5 * (len(ops) + 1))
    assert encoder.seconds == pytest.approx(0.5 * (len(ops) + 1))
    names = itertools.chain.from_iterable(each.ops for each in times)
    assert sorted(names) == sorted(op.name for op in ops)
    by_kind = {each.kind: each for each in times}
    products = [op for op in ops if op.kind == "linear"]
    square = by_kind["linear [64, 64]"]
    assert square.regions == len(square.ops) == len(products) - 2
    assert square.seconds == pytest.approx(0.5 * square.regions)
    # Rows of 64, for 10 positions each.
    assert square.flops is not None
    assert square.flops >= square.regions * 2 * 10 * 64 * 64
    assert square.bytes is not None
    assert square.bytes >= square.regions * 4 * (64 * 64 + 2 * 10 * 64)
    assert "linear [256, 64]" in by_kind
    assert "linear [64, 256]" in by_kind


def test_integers_are_told_apart_like_floats() -> None:
    counted = {}
    for precision in PRECISIONS:
        graph = build_step(DIMS, precision=precision)
        profile = Profile(graph, numpy_machine().place(graph, Forms()))
        profile.begin()
        times = profile.times()
        # By their products' weights, and by what of them has costs.
        shapes = {each.kind.partition(" ")[2] for each in times if "[" in each.kind}
        counted[precision] = shapes, {each.kind for each in times if each.flops is None}
    shapes = {"[64, 64]", "[256, 64]", "[64, 256]", "[100, 64]"}
    assert counted["float32"] == (shapes, {"embed", "store_cache", "cached_attention"})
    assert counted["int8"] == (shapes, {"embed_int32", "store_int16", "cached_attention_int16"})


def test_runs_that_were_disturbed_do_not_count(encoder: Profile, clock: list[float]) -> None:
    for seconds in (0.5, 40.0, 0.25, 0.5, 0.001):
        watch(encoder, clock, seconds)
    n_ops = len(build_encoder(DIMS).ops)
    mean = (0.5 + 0.25 + 0.5) / 3
    assert encoder.seconds == pytest.approx(mean * (n_ops + 1))
    assert sum(each.seconds for each in encoder.times()) == pytest.approx(encoder.seconds)
