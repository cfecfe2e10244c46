"""Measurements of the engine: the same results on every side, floors, tables; times are not tested.

The model is small and has random weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import soundfile

from tests.support.checkpoints import Recipe
from tests.support.real.speech import PAUSE, RATE, Recording
from tools.compare_checkouts import Side
from tools.engine import batch, material, single
from tools.engine.batch import Report, Step
from tools.engine.floors import Reader, Work, work_of
from tools.engine.material import Material, model_folder, write_material
from tools.engine.sides import (
    AT_ONCE,
    AT_ONCE_BATCHES,
    BESIDE,
    DELAYS,
    LOOP,
    LOOP_BATCHES,
    WHOLE,
    Found,
    Task,
    run,
)
from tools.engine.throughput import report, task_of
from tools.measuring import REPOSITORY
from whisper_npu import Transcriber

JFK = REPOSITORY / "samples" / "jfk.flac"


@pytest.fixture(scope="module")
def model(seeded_directory: Callable[[Recipe], Path]) -> Path:
    return seeded_directory(Recipe(size="nano"))


@pytest.fixture
def transcriber(model: Path) -> Iterator[Transcriber]:
    with Transcriber(model, precision="int8", cpu_kernels=False) as opened:
        yield opened


# The recordings


def test_recordings_are_as_long_as_they_are_to_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = []
    for i, seconds in enumerate((2.0, 3.0, 4.5, 30.0, 1.0, 1.5, 50.0, 20.0)):
        path = tmp_path / f"part-{i}.wav"
        soundfile.write(path, np.full(round(seconds * RATE), (i + 1) / 16), RATE)
        names.append(Recording(f"{i}", "en", f"{i}", (path,), seconds))
    monkeypatch.setattr(material, "sentences", lambda: tuple(names[:2]))
    monkeypatch.setattr(material, "prompts", lambda language: tuple(names[2:]))
    found = write_material(tmp_path, 2, 1)
    assert found.seconds == 80
    first, second, long = (soundfile.read(path)[0] for path in (*found.short, found.long))
    # 2 + 3 s with a pause, and 4.5 s do not fit; what is longer than 10 s is left out.
    assert np.count_nonzero(first) == 5 * RATE
    assert not first[round((5 + PAUSE) * RATE) :].any()
    assert len(first) == len(second) == 10 * RATE
    assert second[0] == pytest.approx(5 / 16, abs=1e-4)
    assert len(long) == 60 * RATE
    assert long.any()


def test_models_are_named_or_folders(tmp_path: Path) -> None:
    assert model_folder(str(tmp_path), "int8") == tmp_path
    with pytest.raises(ValueError, match=r"no-such is neither a folder nor one of tiny\.en, base"):
        model_folder("no-such", "int8")


# Sides


@pytest.fixture(scope="module")
def task(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("recordings")
    noise = np.random.default_rng(0).standard_normal(35 * RATE) * 0.1
    paths = []
    for i, seconds in enumerate((2, 3, 35)):
        paths.append(folder / f"{i}.wav")
        soundfile.write(paths[-1], noise[i : i + seconds * RATE], RATE)
    return task_of(str(model), "float32", Material((*paths[:2],), paths[2]), 2, 3, None)


def test_every_side_gives_the_same(task: Task) -> None:
    found = {side: run(replace(task, side=side)) for side in WHOLE}
    loop, at_once = found[LOOP], found[AT_ONCE]
    assert loop.results == at_once.results
    assert set(loop.results) == {*task.short, task.long}
    assert loop.tokens == at_once.tokens > 0
    assert len(loop.delays) == 2
    assert 0 < loop.long < loop.seconds
    assert not at_once.delays
    assert loop.windows == 1.0 < at_once.windows
    assert {"mel", "encoder", "cross_kv", "prefill", "step"} <= set(loop.phases)
    for one in found.values():
        assert 0 < sum(one.phases.values()) < one.seconds
        assert one.peak_mb > 1
    batches, both = found[LOOP_BATCHES].results, found[AT_ONCE_BATCHES].results
    assert both[task.long] == batches[task.long]
    assert all(both[path] == loop.results[path] for path in task.short)


@pytest.mark.parametrize("side", DELAYS)
def test_short_recordings_beside_the_long_one(task: Task, side: str) -> None:
    found = run(replace(task, side=side))
    assert len(found.delays) <= 2
    assert task.long not in found.results


# Tables

NONE: Mapping[str, float] = MappingProxyType({})


def found(
    seconds: float, delays: list[float], result: str = "a", phases: Mapping[str, float] = NONE
) -> Found:
    results = {"short": "s", "long": result}
    return Found(seconds, dict(phases), delays, 4.0, 7, 1.5, 100.0, results, 0.5)


def test_ratios_and_bounds() -> None:
    loop = {"mel": 0.5, "encoder": 2.0, "cross_kv": 0.5, "prefill": 1.0, "step": 6.0, "choice": 1.0}
    runs = {
        LOOP: [found(12.0, [1.0, 2.0, 3.0], phases=loop)] * 2,
        LOOP_BATCHES: [found(9.0, [])] * 2,
        AT_ONCE: [found(6.0, []), found(4.0, [])],
        AT_ONCE_BATCHES: [found(6.0, [])] * 2,
        BESIDE: [found(9.0, [3.0, 5.0])] * 2,
        DELAYS[1]: [found(9.0, [])] * 2,
    }
    text = "\n".join(report(runs, 60.0, 8))
    assert "| 5.0 (4.0 to 6.0)" in text
    assert "| 0.417 (0.333 to 0.500)" in text
    assert "12.0 " in text  # seconds of audio a second
    assert "| 4 | 4.000     | 5.000   | 5.000   | 2.00 (2.00 to 2.00) " in text
    # 3 s alone, 8 s together, 1 s of other things.
    assert "| 5.00 | 0.417 " in text
    assert "| 4.00 | 0.333 " in text
    assert "| 3.00 | 0.250 " in text
    assert "at once, batch_size for the long one: 2.00 times as fast" in text
    assert "4.00 s of it: at most 3.00 times as fast. Measured, at once: 2.50." in text
    assert "DIFFERENT" not in text


def test_results_that_differ_are_named() -> None:
    runs = {side: [found(1.0, [1.0], phases={"mel": 0.5})] for side in (*WHOLE, *DELAYS)}
    runs[AT_ONCE] = [found(1.0, [], "b")]
    # That of batch_size is another.
    for side in (LOOP_BATCHES, AT_ONCE_BATCHES, DELAYS[1]):
        runs[side] = [found(1.0, [], "c")]
    (line,) = (line for line in report(runs, 1.0, 8) if line.startswith("DIFFERENT"))
    assert line == "DIFFERENT: long, at once, from one after the other"


# Steps and floors


def test_the_work_of_a_step(transcriber: Transcriber) -> None:
    model = transcriber._model
    model._decoder.reserve(3, 1)
    one, two = (work_of(model, n, 59) for n in (1, 2))
    dims = model.dims
    layers, width, n_vocab = dims.n_text_layer, dims.n_text_state, dims.n_vocab
    # Four products of each attention, but for the cross keys and values, and two of four widths.
    products = layers * (4 + 2 + 8) * width**2 + n_vocab * width
    assert one.products == products
    assert one.multiply_adds == products + 2 * layers * width * (dims.n_audio_ctx + 60)
    # NumPy has floats; with what stands beside rows, but not the table of embeddings.
    assert 4 * products < one.weights < 4.2 * products
    assert 0 < two.weights - one.weights < 10 * width
    scales = 4 * 2 * layers * width
    assert one.cross == 4 * 2 * layers * width * dims.n_audio_ctx + scales
    assert one.own == 2 * 2 * layers * width * 60
    assert (two.cross, two.own) == (2 * one.cross, 2 * one.own)
    assert two.multiply_adds == 2 * one.multiply_adds
    model._decoder.reserve(6, 2)
    assert work_of(model, 2, 59) == two


def test_a_reader_reads_all_of_it() -> None:
    assert 0 < Reader(10**6)() < 1e-6


def test_steps_are_measured(transcriber: Transcriber) -> None:
    measured = batch.measure(transcriber, JFK, 1, (1, 2))
    medians, fastest = (report.steps for report in measured)
    assert [step.windows for step in medians] == [1, 2]
    for middle, least in zip(medians, fastest, strict=True):
        assert 0 < least.network <= middle.network
        assert 0 < least.choice <= middle.choice
        assert 0 < least.engine <= middle.engine
        assert 0 < least.read <= middle.read
    table = list(batch.lines(measured))
    assert table[0].startswith("int8, ")
    assert len(table) == 1 + 2 * 7


def test_the_floor_is_the_larger_one() -> None:
    work = Work(10**6, 10**6, 10**6, 10**6, 10**6)
    step = Step(2, 0.009, 0.001, 0.02, 1e-9, work)
    by_memory, by_products = (Report("Medians", (step,), rate, "int8", 2) for rate in (1e-9, 2e-9))
    assert by_memory.floor(step) == pytest.approx((3e-3, "memory"))
    assert by_products.floor(step) == pytest.approx((4e-3, "products"))
    (row,) = list(batch.lines([by_products]))[-1:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:6] == ["2", "9.00", "1.000", "5.000", "1.00", "20.00"]
    assert cells[6:] == ["1.0 + 1.0 + 1.0", "1.0", "2.0", "4.00", "products", "2.50"]


# Two checkouts


def test_a_checkout_beside_itself(model: Path, cache_home: Path) -> None:
    cache_home.mkdir()
    side = Side("one", REPOSITORY, cache_home, Path(sys.executable), 1)
    seconds, peaks = single.measure(side, side, model, "float32-numpy", JFK, 1)
    assert len(seconds) == len(peaks) == 1
    assert min(*seconds[0], *peaks[0]) > 0
    row = list(single.lines("jfk", [(1.0, 2.0)] * 3, [(10.0, 11.0)]))[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "jfk", "3", "1000", "2000", "2.000", "2.000 to 2.000", "10.0", "11.0", "1.100",
    ]  # fmt: skip
