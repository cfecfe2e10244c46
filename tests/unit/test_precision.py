"""INT8 from the file to the logits."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from whisper_npu.backends.opening import numpy_machine, numpy_model
from whisper_npu.errors import KernelError, ModelError
from whisper_npu.model.builders import PHASES, build_encoder, build_phase
from whisper_npu.model.checkpoint import Checkpoint, StoredWeights, load_checkpoint
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.model.weight_shapes import is_quantizable, scale_name
from whisper_npu.ops.linear import conv_matrix
from whisper_npu.ops.quant import Quantized, quantize_rows, quantize_weight
from whisper_npu.runtime.backend import Form
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.plan import Plan
from whisper_npu.runtime.weights import Weights

from .conftest import SMALL

EMBEDDING = "model.decoder.embed_tokens.weight"
FC1 = "model.encoder.layers.0.fc1.weight"


@pytest.fixture
def int8_directory(small_directory: Path) -> Path:
    """The small directory with its matrices stored as int8."""
    file = small_directory / "model.safetensors"
    stored: dict[str, np.ndarray] = {}
    for name, array in load_file(file).items():
        if is_quantizable(name, array.shape):
            quantized = quantize_weight(array)
            stored[name], stored[scale_name(name)] = quantized.values, quantized.scale
        else:
            stored[name] = array
    save_file(stored, file)
    return small_directory


INTEGERS, FLOATS, COLUMNS = Form("int8"), Form("float32"), Form("float32", "F")


def prepared(stored: Mapping[str, np.ndarray | Quantized], form: Form) -> dict[str, np.ndarray]:
    """The weights of an int8 model, matrices in a form, by name."""
    shapes = stored.shapes if isinstance(stored, StoredWeights) else _shapes(stored)
    wanted = dict.fromkeys(shapes, (FLOATS,))
    for name, shape in shapes.items():
        if is_quantizable(name, shape):
            wanted[name] = (form,)
            wanted[scale_name(name)] = (FLOATS,)
    weights = Weights(stored, "int8")
    weights.load(wanted)
    return {name: weights.get(name, forms[0]) for name, forms in wanted.items()}


def _shapes(stored: Mapping[str, np.ndarray | Quantized]) -> dict[str, tuple[int, ...]]:
    plain = stored.weights if isinstance(stored, Watched) else stored
    return {n: (w.values if isinstance(w, Quantized) else w).shape for n, w in plain.items()}


def features() -> np.ndarray:
    return np.random.RandomState(4).standard_normal((1, 80, 60)).astype(np.float32)


def logits(model: Model) -> np.ndarray:
    session = model.decoder(model.encode(features()))
    session.prefill([[1, 2, 3]], [2])
    return session.step([4]).copy()


@pytest.mark.parametrize("phase", PHASES)
def test_int8_graphs_hold_together_and_products_are_int8(phase: str) -> None:
    graph = build_phase(phase, KNOWN_DIMENSIONS["tiny"], precision="int8")
    kinds = [op.kind for op in graph.ops]
    plain = [op.kind for op in build_phase(phase, KNOWN_DIMENSIONS["tiny"]).ops]
    assert not {"linear", "conv1d", "embed"}.intersection(kinds)
    assert kinds.count("linear_int8") == plain.count("linear") + plain.count("conv1d")
    for op in graph.ops:
        if op.kind == "linear_int8":
            assert [graph[name].dtype for name in op.inputs[:4]] == ["int8", "float32"] * 2


def test_an_activation_is_quantised_once() -> None:
    graph = build_encoder(KNOWN_DIMENSIONS["tiny"], precision="int8")
    sources = [op.inputs[0] for op in graph.ops if op.kind == "quantize_rows"]
    assert len(sources) == len(set(sources))
    # q, k and v read the same rows.
    assert sum("encoder.0.attn_ln.int8" in op.inputs for op in graph.ops) == 3


def test_every_product_of_the_encoder_is_exact(small_checkpoint: Checkpoint) -> None:
    graph = build_encoder(SMALL, precision="int8")
    weights = prepared(small_checkpoint.weights, INTEGERS)
    weights_of = {op.name: op.inputs for op in graph.ops}
    seen: dict[str, np.ndarray] = {}
    source = Weights(small_checkpoint.weights, "int8")
    plan = Plan(graph, source, {}, numpy_machine())
    plan(lambda name, array: seen.__setitem__(name, array.copy()), features=features())
    checked = 0
    for name, inputs in weights_of.items():
        if not inputs[0].endswith(".int8"):
            continue
        rows, scale = quantize_rows(seen[inputs[0].removesuffix(".int8")])
        sums = rows.astype(np.int64) @ weights[inputs[2]].astype(np.int64).T
        expected = sums.astype(np.float32) * scale[..., None] * weights[inputs[3]]
        if len(inputs) > 4:
            expected += weights[inputs[4]]
        assert np.array_equal(seen[name], expected), name
        checked += 1
    assert checked == 2 + 6 * SMALL.n_audio_layer


def test_an_int8_file_keeps_its_integers(int8_directory: Path) -> None:
    stored = load_file(int8_directory / "model.safetensors")
    weights = load_checkpoint(int8_directory).weights
    fc1 = weights[FC1]
    assert isinstance(fc1, Quantized)
    assert np.array_equal(fc1.values, stored[FC1])
    assert np.array_equal(fc1.scale, stored[scale_name(FC1)])
    assert scale_name(FC1) not in weights


def test_quantised_on_disk_or_at_load_is_the_same(
    small_checkpoint: Checkpoint, int8_directory: Path
) -> None:
    at_load = logits(numpy_model(small_checkpoint, "int8"))
    on_disk = logits(numpy_model(load_checkpoint(int8_directory), "int8"))
    assert np.array_equal(at_load, on_disk)


@pytest.mark.parametrize("as_integers", [True, False])
def test_integers_are_read_whole_where_they_are_kept_so(
    int8_directory: Path, as_integers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: dict[str, list[slice | None]] = {}
    rows = StoredWeights.rows

    def watched(self: StoredWeights, name: str, part: slice | None) -> np.ndarray | Quantized:
        read.setdefault(name, []).append(part)
        return rows(self, name, part)

    monkeypatch.setattr(StoredWeights, "rows", watched)
    monkeypatch.setattr("whisper_npu.runtime.weights._QUANTIZED", 60)
    stored = load_checkpoint(int8_directory).weights
    assert isinstance(stored, StoredWeights)
    found = prepared(stored, INTEGERS if as_integers else FLOATS)
    assert FC1 in stored.integers
    for name in stored.integers:
        # Convolutions are kept as matrices, which are copies.
        whole = as_integers and len(stored.shapes[name]) == 2
        assert (read[name] == [None]) == whole
    assert found[FC1].dtype == (np.int8 if as_integers else np.float32)
    assert np.array_equal(found[FC1], load_file(int8_directory / "model.safetensors")[FC1])


@pytest.mark.parametrize("form", [INTEGERS, FLOATS, COLUMNS], ids=str)
def test_int8_weights_are_prepared_as_they_are_quantised(
    small_checkpoint: Checkpoint, form: Form
) -> None:
    stored = {n: w for n, w in small_checkpoint.weights.items() if w.ndim < 3 or form.order == "C"}
    found = prepared(stored, form)
    for name, weight in stored.items():
        if is_quantizable(name, weight.shape):
            quantized = quantize_weight(weight)
            values = quantized.values
            matrix = values.transpose(0, 2, 1) if values.ndim == 3 else values
            assert np.array_equal(found[name], matrix.reshape(len(values), -1))
            assert found[name].dtype == form.dtype
            assert found[name].T.flags.c_contiguous or form.order == "C"
            assert np.array_equal(found[scale_name(name)], quantized.scale)
        else:
            assert np.array_equal(found[name], weight)


def test_float32_from_an_int8_file_uses_the_dequantised_weights(int8_directory: Path) -> None:
    checkpoint = load_checkpoint(int8_directory)
    plain = {
        name: weight.dequantize() if isinstance(weight, Quantized) else weight
        for name, weight in checkpoint.weights.items()
    }
    dequantised = Checkpoint(
        checkpoint.path, checkpoint.dims, checkpoint.config, checkpoint.generation, plain
    )
    assert np.array_equal(logits(numpy_model(checkpoint)), logits(numpy_model(dequantised)))


def test_the_two_precisions_differ_by_little(int8_directory: Path) -> None:
    checkpoint = load_checkpoint(int8_directory)
    plain, int8 = (logits(numpy_model(checkpoint, precision)) for precision in ("float32", "int8"))
    assert not np.array_equal(plain, int8)
    assert np.linalg.norm(plain - int8) < 0.05 * np.linalg.norm(plain)


def damage(folder: Path, change: dict[str, np.ndarray | None]) -> None:
    file = folder / "model.safetensors"
    tensors = {**load_file(file), **change}
    save_file({name: array for name, array in tensors.items() if array is not None}, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({scale_name(FC1): None}, "needs .*fc1.weight_scale"),
        ({scale_name(FC1): np.ones(3, np.float32)}, "needs .*fc1.weight_scale"),
        ({scale_name(FC1): np.ones(4 * SMALL.n_audio_state, np.float16)}, "needs .*fc1"),
        (
            {scale_name(FC1): np.full(4 * SMALL.n_audio_state, np.nan, np.float32)},
            "fc1.weight_scale holds a scale",
        ),
        (
            {FC1: np.full((4 * SMALL.n_audio_state, SMALL.n_audio_state), -128, np.int8)},
            "fc1.weight holds -128",
        ),
        (
            {
                "model.encoder.layer_norm.weight": np.ones(SMALL.n_audio_state, np.int8),
            },
            "layer_norm.weight is int8",
        ),
    ],
)
def test_damaged_int8_files(
    int8_directory: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    damage(int8_directory, change)
    with pytest.raises(ModelError, match=message):
        numpy_model(load_checkpoint(int8_directory))


class Watched(Mapping[str, np.ndarray]):
    """Weights that know how many of them are held."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights, self.asked, self.held, self.most = weights, Counter[str](), 0, 0

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.weights[name].copy()
        self.asked[name] += 1
        self.held += 1
        self.most = max(self.most, self.held)
        weakref.finalize(array, self.forget)
        return array

    def forget(self) -> None:
        self.held -= 1

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def test_weights_are_asked_for_once_and_not_held_when_they_are_converted(
    small_checkpoint: Checkpoint,
) -> None:
    matrices = {
        name: weight
        for name, weight in small_checkpoint.weights.items()
        if is_quantizable(name, weight.shape)
    }
    watched = Watched(matrices)
    found = prepared(watched, INTEGERS)
    assert watched.asked == Counter(dict.fromkeys(matrices, 1))
    assert (watched.held, len(found)) == (0, 2 * len(matrices))
    # One for each of the threads that convert, and one that is just being dropped.
    assert watched.most <= 8 < len(matrices)


def test_weights_are_quantised_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(0).standard_normal((50, 8), np.float32)
    monkeypatch.setattr("whisper_npu.runtime.weights._QUANTIZED", 60)
    found = prepared({FC1: w}, INTEGERS)
    expected = quantize_weight(w)
    assert np.array_equal(found[FC1], expected.values)
    assert np.array_equal(found[scale_name(FC1)], expected.scale)


class Tiles:
    """A packing that keeps what it was filled with; or has no memory."""

    name, rows = "tiles", 4

    def __init__(self, full: bool = False) -> None:
        self.filled: list[tuple[int, int]] = []
        self.full, self.taken = full, 0

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def take(self, weight: str, shape: tuple[int, ...]) -> np.ndarray:
        self.taken += 1
        if self.full:
            self.full = False
            raise KernelError("full")
        return np.zeros(shape, np.int8)

    def fill(self, packed: np.ndarray, values: np.ndarray, first: int) -> None:
        self.filled.append((first, len(values)))
        packed[first : first + len(values)] = values


def test_packed_weights_are_filled_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a convolution; scales come along, and nothing is read twice."""
    monkeypatch.setattr("whisper_npu.runtime.weights._QUANTIZED", 60)
    random = np.random.default_rng(0)
    matrix = random.standard_normal((50, 8), np.float32)
    conv = random.standard_normal((50, 4, 3), np.float32)
    for name, w in ((FC1, matrix), ("model.encoder.conv1.weight", conv)):
        tiles = Tiles()
        form = Form.packed("int8", tiles)
        watched = Watched({name: w})
        weights = Weights(watched, "int8")
        weights.load({name: (form,), scale_name(name): (FLOATS,)})
        expected = quantize_weight(w)
        values = expected.values if w.ndim == 2 else conv_matrix(expected.values)
        assert np.array_equal(weights.get(name, form), values)
        assert np.array_equal(weights.get(scale_name(name), FLOATS), expected.scale)
        assert [first for first, _ in tiles.filled] == list(range(0, 50, 4))
        assert sum(count for _, count in tiles.filled) == 50
        # Once for its shape, and once for each part.
        assert watched.asked[name] <= 1 + len(tiles.filled)
        assert watched.held == 0


def test_memory_that_was_refused_is_an_error_once(small_checkpoint: Checkpoint) -> None:
    tiles = Tiles(full=True)
    form = Form.packed("int8", tiles)
    weights = Weights(small_checkpoint.weights, "int8")
    weights.load({FC1: (form,)})
    assert tiles.taken == 1
    with pytest.raises(KernelError, match=r"^full$"):
        weights.get(FC1, form)
    values = quantize_weight(small_checkpoint.weights[FC1]).values  # type: ignore[arg-type]
    assert np.array_equal(weights.get(FC1, form), values)
    assert tiles.taken == 2
    weights.get(FC1, INTEGERS)
    weights.release()
    assert weights.forms[FC1] == (INTEGERS,)
    # What was refused before does not count after that.
    other = Form.packed("int8", Tiles(full=True))
    weights.load({FC1: (other,)})
    weights.release()
    assert np.array_equal(weights.get(FC1, other), values)


def test_an_error_keeps_nothing_alive(small_checkpoint: Checkpoint) -> None:
    """Neither while it waits to be raised nor afterwards."""
    gc.collect()
    gc.disable()
    try:
        form = Form.packed("int8", Tiles(full=True))
        weights = Weights(small_checkpoint.weights, "int8")
        weights.load({FC1: (form,), EMBEDDING: (INTEGERS,)})
        known = weakref.ref(weights)
        del weights
        assert known() is None
        weights = Weights(small_checkpoint.weights, "int8")
        weights.load({FC1: (Form.packed("int8", Tiles(full=True)),)})
        known = weakref.ref(weights)
        with suppress(KernelError):
            weights.get(FC1, Form.packed("int8", Tiles()))
        del weights
        assert known() is None
    finally:
        gc.enable()


def test_weights_that_cannot_be_quantised_are_named(small_checkpoint: Checkpoint) -> None:
    spoiled = np.array(small_checkpoint.weights[EMBEDDING])
    spoiled[3, 1] = np.nan
    checkpoint = Checkpoint(
        small_checkpoint.path,
        small_checkpoint.dims,
        small_checkpoint.config,
        small_checkpoint.generation,
        {**small_checkpoint.weights, EMBEDDING: spoiled},
    )
    with pytest.raises(ModelError, match=f"{EMBEDDING} holds NaN"):
        numpy_model(checkpoint, "int8")
