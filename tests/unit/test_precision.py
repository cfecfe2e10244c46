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
from whisper_npu.model.checkpoint import Checkpoint, load_checkpoint
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.model.integer_weights import IntegerWeights, quantized_weights
from whisper_npu.model.weight_shapes import is_quantizable, scale_name
from whisper_npu.ops.quant import Quantized, quantize_weight
from whisper_npu.ops.rows import quantize_int32, rms_norm
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


def integers_of(stored: Mapping[str, np.ndarray | Quantized]) -> IntegerWeights:
    """The integer weights of floats that a test can watch."""

    def rows(name: str, part: slice | None) -> np.ndarray | Quantized:
        weight = stored[name]
        return weight if part is None else weight[part]

    return quantized_weights(rows, SMALL)


def prepared(stored: IntegerWeights, form: Form) -> dict[str, np.ndarray]:
    """Integer weights with the int8 ones in a form, by name."""
    wanted = {
        name: (form if dtype == "int8" else Form(dtype),)
        for name, (_, dtype) in stored.specification.items()
    }
    weights = Weights(stored)
    weights.load(wanted)
    return {name: weights.get(name, forms[0]) for name, forms in wanted.items()}


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
    # The encoder has one product more: the rotation of its residual stream.
    products = plain.count("linear") + plain.count("conv1d") + (phase == "encoder")
    assert kinds.count("product_int8") == products
    for op in graph.ops:
        if op.kind == "product_int8":
            dtypes = [graph[name].dtype for name in (*op.inputs, *op.outputs)]
            assert dtypes[0] in ("int8", "int16")
            assert dtypes[1:4] == ["float32", "int8", "float32"]
            assert set(dtypes[4:]) == {"int32"}


def test_only_scales_and_what_stands_for_logits_are_floats() -> None:
    for phase in ("encoder", "cross_kv", "prefill", "step"):
        graph = build_phase(phase, KNOWN_DIMENSIONS["tiny"], precision="int8")
        floats = {tensor.name for tensor in graph.tensors if tensor.dtype == "float32"}
        assert {name for name in floats if not name.endswith("_scale")} <= {"logits"}


def test_an_activation_is_quantised_once() -> None:
    graph = build_encoder(KNOWN_DIMENSIONS["tiny"], precision="int8")
    sources = [op.inputs[0] for op in graph.ops if op.kind in ("quantize_int32", "rms_norm")]
    assert len(sources) == len(set(sources))
    # q, k and v read the same rows.
    assert sum("encoder.0.attn_ln" in op.inputs for op in graph.ops) == 3


def test_every_product_of_the_encoder_is_exact(small_checkpoint: Checkpoint) -> None:
    graph = build_encoder(SMALL, precision="int8")
    integers = integers_of(small_checkpoint.weights)
    weights = prepared(integers, INTEGERS)
    # Scales of rows are no first outputs: ops by the rows that they make, and what they read.
    makes = {op.outputs[0]: op for op in graph.ops if op.kind in ("quantize_int32", "rms_norm")}
    seen: dict[str, np.ndarray] = {"features": np.rint(features() * 2.0**13).astype(np.int32)}
    plan = Plan(graph, Weights(integers), {}, numpy_machine())
    plan(lambda name, array: seen.__setitem__(name, array.copy()), features=seen["features"])
    checked = 0
    for op in graph.ops:
        if op.kind != "product_int8":
            continue
        rows = makes[op.inputs[0]]
        source, bits = seen[rows.inputs[0]], int(str(rows.attr("bits")))
        if rows.kind == "rms_norm":
            values, scale = rms_norm(source, bits)
        else:
            values, scale = quantize_int32(source, bits, int(str(rows.attr("fraction"))))
        assert np.array_equal(values, seen[rows.name])
        sums = values.astype(np.int64) @ weights[op.inputs[2]].astype(np.int64).T
        assert np.abs(sums).max() < 2**31
        # Scales and sums are integers times powers of two: this is exact but for rint.
        expected = np.rint(sums * (scale[..., None] * 4096.0) * weights[op.inputs[3]])
        if len(op.inputs) > 4:
            expected += weights[op.inputs[4]]
        assert np.array_equal(seen[op.name], expected), op.name
        checked += 1
    assert checked == 3 + 6 * SMALL.n_audio_layer


def test_an_int8_file_keeps_its_integers(int8_directory: Path) -> None:
    stored = load_file(int8_directory / "model.safetensors")
    weights = load_checkpoint(int8_directory).weights
    fc1 = weights[FC1]
    assert isinstance(fc1, Quantized)
    assert np.array_equal(fc1.values, stored[FC1])
    assert np.array_equal(fc1.scale, stored[scale_name(FC1)])
    assert scale_name(FC1) not in weights


def test_a_folder_of_version_1_is_quantised_as_the_floats_that_it_stands_for(
    int8_directory: Path,
) -> None:
    stored = load_checkpoint(int8_directory)
    plain = {
        name: weight.dequantize() if isinstance(weight, Quantized) else weight
        for name, weight in stored.weights.items()
    }
    floats = Checkpoint(stored.path, stored.dims, stored.config, stored.generation, plain)
    assert np.array_equal(logits(numpy_model(stored, "int8")), logits(numpy_model(floats, "int8")))


@pytest.mark.parametrize("form", [INTEGERS, FLOATS, COLUMNS], ids=str)
def test_integer_weights_are_prepared_as_they_are(small_checkpoint: Checkpoint, form: Form) -> None:
    stored = integers_of(small_checkpoint.weights)
    found = prepared(stored, form)
    for name, (shape, dtype) in stored.specification.items():
        expected = stored[name]
        assert (expected.shape, expected.dtype) == (shape, dtype)
        assert np.array_equal(found[name], expected)
        assert found[name].dtype == (form.dtype if dtype == "int8" else dtype)
        assert found[name].T.flags.c_contiguous or dtype != "int8" or form.order == "C"


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
    # The logits of int8 are less a constant for each row.
    plain, int8 = (x - x.mean(axis=-1, keepdims=True) for x in (plain, int8))
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


def test_weights_are_not_held_when_they_are_converted(small_checkpoint: Checkpoint) -> None:
    watched = Watched(small_checkpoint.weights)
    found = prepared(integers_of(watched), INTEGERS)
    assert watched.held == 0
    assert len(found) > len(watched)
    # A weight and a norm for each of the threads that convert, and those that are being dropped.
    assert watched.most <= 12 < len(watched)


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


def test_packed_weights_are_those_that_were_made(small_checkpoint: Checkpoint) -> None:
    integers = integers_of(small_checkpoint.weights)
    tiles = Tiles()
    weights = Weights(integers)
    form = Form.packed("int8", tiles)
    weights.load({FC1: (form,), scale_name(FC1): (FLOATS,)})
    assert np.array_equal(weights.get(FC1, form), integers[FC1])
    assert np.array_equal(weights.get(scale_name(FC1), FLOATS), integers[scale_name(FC1)])
    assert tiles.filled == [(0, 4 * SMALL.n_audio_state)]


def test_memory_that_was_refused_is_an_error_once(small_checkpoint: Checkpoint) -> None:
    tiles = Tiles(full=True)
    form = Form.packed("int8", tiles)
    integers = integers_of(small_checkpoint.weights)
    weights = Weights(integers)
    weights.load({FC1: (form,)})
    assert tiles.taken == 1
    with pytest.raises(KernelError, match=r"^full$"):
        weights.get(FC1, form)
    values = integers[FC1]
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
        weights = Weights(integers_of(small_checkpoint.weights))
        weights.load({FC1: (form,), EMBEDDING: (INTEGERS,)})
        known = weakref.ref(weights)
        del weights
        assert known() is None
        weights = Weights(integers_of(small_checkpoint.weights))
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
