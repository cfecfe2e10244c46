"""Integer weights: the folded network computes what the float one does, and rounds as defined."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from whisper_npu.errors import ModelError
from whisper_npu.model import integer_weights as module
from whisper_npu.model.dims import KNOWN_DIMENSIONS, ModelDimensions
from whisper_npu.model.hadamard import rotate, rotate_centred
from whisper_npu.model.integer_weights import (
    DECODER_POSITIONS,
    LOGITS,
    ROTATION,
    Folding,
    integer_specification,
    quantized_weights,
)
from whisper_npu.model.weight_shapes import (
    ENCODER_POSITIONS,
    TOKEN_EMBEDDING,
    scale_name,
    weight_specification,
)
from whisper_npu.ops.linear import conv_matrix
from whisper_npu.ops.quant import Quantized, quantize_weight

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Floats = dict[str, F32]

# A width with a Hadamard matrix and one that is rotated in pieces; heads of 12, 4 and 3.
WIDE = ModelDimensions(5, 7, 24, 2, 2, 50, 6, 24, 6, 2)
ODD = ModelDimensions(4, 5, 6, 2, 1, 11, 3, 6, 2, 1)
ENCODER, DECODER = "model.encoder.layers.0", "model.decoder.layers.0"


def floats(dims: ModelDimensions, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in weight_specification(dims).items()
    }


def reader(weights: dict[str, F32 | Quantized] | Floats) -> module.FloatRows:
    return lambda name, part: weights[name] if part is None else weights[name][part]


def norm(weights: Floats, name: str, x: F64) -> F64:
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def rms_norm(x: F64) -> F64:
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5)


def turned(x: F64) -> F64:  # [m, d] -> [m, d]: R C of each row
    columns = np.ascontiguousarray(x.T)
    rotate_centred(columns[None])
    return columns.T


def in_heads(x: F64, heads: int) -> F64:  # [m, d] -> [m, d]
    columns = np.ascontiguousarray(x.T)
    rotate(columns.reshape(heads, -1, len(x)))
    return columns.T


def product(weights: Floats, layer: str, x: F64) -> F64:
    y = x @ weights[f"{layer}.weight"].T.astype(np.float64)
    return y + weights[f"{layer}.bias"] if f"{layer}.bias" in weights else y


def folded(folding: Folding, layer: str, x: F64) -> F64:
    name = f"{layer}.weight"
    y = x @ folding.matrix(name).T
    return y + folding.bias(name) if folding.products[name].has_bias else y


@pytest.fixture(params=[WIDE, ODD], ids=["hadamard", "pieces"])
def dims(request: pytest.FixtureRequest) -> ModelDimensions:
    found: ModelDimensions = request.param
    return found


@pytest.fixture
def weights(dims: ModelDimensions) -> Floats:
    return floats(dims)


@pytest.fixture
def folding(dims: ModelDimensions, weights: Floats) -> Folding:
    return Folding(reader(weights), dims)


@pytest.fixture
def stream(dims: ModelDimensions) -> F64:
    return np.random.default_rng(9).standard_normal((8, dims.n_audio_state)) + 0.3


def test_what_reads_the_stream_gives_the_same(
    dims: ModelDimensions, weights: Floats, folding: Folding, stream: F64
) -> None:
    x = rms_norm(turned(stream))
    h = norm(weights, f"{ENCODER}.self_attn_layer_norm", stream)
    units = math.log2(math.e) / math.sqrt(dims.n_audio_state // dims.n_audio_head)
    q = f"{ENCODER}.self_attn.q_proj"
    assert np.allclose(folded(folding, q, x), product(weights, q, h) * units, atol=1e-6)
    k = f"{ENCODER}.self_attn.k_proj"
    # A constant adds the same to the scores of a query with all keys.
    difference = product(weights, k, h) - folded(folding, k, x)
    assert np.allclose(difference, difference[0], atol=1e-6)
    v = f"{ENCODER}.self_attn.v_proj"
    expected = in_heads(product(weights, v, h), dims.n_audio_head)
    assert np.allclose(folded(folding, v, x), expected, atol=1e-6)
    fc1 = f"{DECODER}.fc1"
    h = norm(weights, f"{DECODER}.final_layer_norm", stream)
    assert np.allclose(folded(folding, fc1, x), product(weights, fc1, h), atol=1e-6)
    h = norm(weights, "model.decoder.layer_norm", stream)
    expected = h @ weights[TOKEN_EMBEDDING].T
    logits = x @ folding.matrix(LOGITS).T + folding.bias(LOGITS)
    # Less their mean: probabilities are those of the float model.
    assert np.allclose(logits, expected - expected.mean(axis=1, keepdims=True), atol=1e-6)


def test_cross_attention_reads_through_the_norm_of_the_encoder(
    dims: ModelDimensions, weights: Floats, folding: Folding, stream: F64
) -> None:
    x = rms_norm(turned(stream))
    states = norm(weights, "model.encoder.layer_norm", stream)
    v = f"{DECODER}.encoder_attn.v_proj"
    expected = in_heads(product(weights, v, states), dims.n_text_head)
    assert np.allclose(folded(folding, v, x), expected, atol=1e-6)
    q = f"{DECODER}.encoder_attn.q_proj"
    h = norm(weights, f"{DECODER}.encoder_attn_layer_norm", stream)
    units = math.log2(math.e) / math.sqrt(dims.n_text_state // dims.n_text_head)
    assert np.allclose(folded(folding, q, x), product(weights, q, h) * units, atol=1e-6)


def test_what_writes_to_the_stream_gives_it_turned(
    dims: ModelDimensions, weights: Floats, folding: Folding
) -> None:
    rng = np.random.default_rng(3)
    heads = rng.standard_normal((8, dims.n_audio_state))
    out = f"{ENCODER}.self_attn.out_proj"
    expected = turned(product(weights, out, heads))
    found = folded(folding, out, in_heads(heads, dims.n_audio_head))
    assert np.allclose(found, expected, atol=1e-6)
    hidden = rng.standard_normal((8, 4 * dims.n_audio_state))
    fc2 = f"{ENCODER}.fc2"
    expected = turned(product(weights, fc2, hidden))
    assert np.allclose(folded(folding, fc2, hidden), expected, atol=1e-6)
    table = weights[TOKEN_EMBEDDING].astype(np.float64)
    assert np.allclose(folding.matrix(TOKEN_EMBEDDING), turned(table), atol=1e-6)
    for positions in (ENCODER_POSITIONS, DECODER_POSITIONS):
        expected = turned(weights[positions].astype(np.float64))
        assert np.allclose(folding.positions(positions), expected, atol=1e-6)
    x = rng.standard_normal((8, dims.n_audio_state))
    assert np.allclose(x @ folding.matrix(ROTATION).T, turned(x), atol=1e-6)


def test_convolutions_are_matrices_and_not_turned(weights: Floats, folding: Folding) -> None:
    for conv in ("model.encoder.conv1", "model.encoder.conv2"):
        weight, bias = weights[f"{conv}.weight"], weights[f"{conv}.bias"]
        assert np.array_equal(folding.matrix(f"{conv}.weight"), conv_matrix(weight))
        assert np.array_equal(folding.bias(f"{conv}.weight"), bias)


def test_the_specification_says_what_is_made(dims: ModelDimensions, weights: Floats) -> None:
    integers = quantized_weights(reader(weights), dims)
    specification = integer_specification(dims)
    assert set(integers) == set(specification)
    for name, array in integers.items():
        assert (array.shape, str(array.dtype)) == specification[name], name
        assert integers.specification[name] == specification[name]
        if array.dtype == np.int8:
            assert array.min() >= -127
            assert np.abs(array).max(axis=1).tolist() == [
                127 if scale else 0 for scale in integers[scale_name(name)]
            ]
    assert f"{ENCODER}.self_attn.k_proj.bias" not in integers
    assert not any("layer_norm" in name for name in integers)
    sizes = [integers[name].nbytes for name in integers]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(KeyError):
        integers["model.encoder.layer_norm.weight"]


def test_integers_are_the_nearest_of_a_scale_of_14_bits(
    dims: ModelDimensions, weights: Floats, folding: Folding
) -> None:
    integers = quantized_weights(reader(weights), dims)
    for name in folding.products:
        matrix = folding.matrix(name)
        for row, values, scale in zip(
            matrix, integers[name], integers[scale_name(name)], strict=True
        ):
            mantissa, _ = math.frexp(float(scale))
            assert mantissa * 2**14 == int(mantissa * 2**14)
            largest = float(np.abs(row).max())
            assert abs(Fraction(float(scale)) * 127 / Fraction(largest or 1) - 1) <= Fraction(
                1, 2**14
            ) or (scale == 0 and largest < 1e-30)
            expected = [round(float(value) / float(scale)) if scale else 0 for value in row]
            assert values.tolist() == expected
    bias = folding.bias(f"{DECODER}.fc2.weight")
    assert integers[f"{DECODER}.fc2.bias"].tolist() == [round(float(b) * 4096) for b in bias]
    positions = folding.positions(DECODER_POSITIONS)
    expected = [[round(float(value) * 4096) for value in row] for row in positions]
    assert integers[DECODER_POSITIONS].tolist() == expected


@pytest.mark.parametrize("name", ["tiny", "base", "small", "large"])
def test_the_rotation_is_exact(name: str) -> None:
    dims = KNOWN_DIMENSIONS[name]
    integers = quantized_weights(reader({}), dims)
    values, scale = integers[ROTATION], integers[scale_name(ROTATION)]
    assert not values[0].any()
    assert scale[0] == 0
    assert np.array_equal(np.abs(values[1:]), np.full((dims.n_audio_state - 1, len(values)), 127))
    assert len(set(scale[1:].tolist())) == 1
    assert scale[1] == pytest.approx(1 / (127 * math.sqrt(dims.n_audio_state)), rel=2**-14)


def test_scales_round_to_the_nearest_and_halves_to_even() -> None:
    unit = 2.0**-13
    rows = np.array([[127 * (1 + steps * unit)] for steps in (0, 1, 0.5, 1.5, 0.501)])
    assert ((module.row_scales(rows) - 1) / unit).tolist() == [0, 1, 0, 2, 1]
    rows = np.array([[0.0, 0.0], [2.0**-101, -(2.0**-102)], [2.0**-90, 0]])
    scale = module.row_scales(rows)
    assert scale[:2].tolist() == [0, 0]
    assert scale[2] > 0
    assert module.nearest(rows, scale).tolist() == [[0, 0], [0, 0], [127, 0]]


def test_integers_round_halves_to_even() -> None:
    rows = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    assert module.nearest(rows, module.row_scales(rows)).tolist() == [[127, 0, 2, 2, 0, -2]]
    assert module.fixed_point(np.array([0.5, 1.5, -2.5]) / 4096).tolist() == [0, 2, -2]


def test_biases_saturate() -> None:
    assert module.fixed_point(np.array([1e9, -1e9])).tolist() == [2**31 - 1, -(2**31 - 1)]


def test_a_mean_is_of_all_rows_in_a_fixed_order(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = floats(WIDE)
    monkeypatch.setattr(module, "_SUMMED", 4)
    table = weights[TOKEN_EMBEDDING].astype(np.float64)
    added = [0.0] * table.shape[1]
    for first in range(0, len(table), 4):
        for column in range(len(added)):
            rows = list(table[first : first + 4, column])
            if len(rows) == 4:
                rows = [rows[0] + rows[2], rows[1] + rows[3]]
            added[column] += rows[0] + rows[1]
    mean = np.array([value / len(table) for value in added])
    gain = weights["model.decoder.layer_norm.weight"]
    expected = turned((table - mean) * gain)
    assert np.array_equal(Folding(reader(weights), WIDE).matrix(LOGITS), expected)


def test_parts_give_the_same_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = floats(WIDE)
    whole = dict(quantized_weights(reader(weights), WIDE))
    monkeypatch.setattr(module, "_BLOCK", 100)
    parts = quantized_weights(reader(weights), WIDE)
    assert all(np.array_equal(parts[name], array) for name, array in whole.items())


def test_scales_and_biases_can_be_asked_for_first() -> None:
    weights = floats(WIDE)
    whole = dict(quantized_weights(reader(weights), WIDE))
    for name in whole:
        assert np.array_equal(quantized_weights(reader(weights), WIDE)[name], whole[name]), name


def test_integers_of_an_older_folder_count_as_floats() -> None:
    weights = floats(WIDE)
    stored = {name: quantize_weight(w) if w.ndim > 1 else w for name, w in weights.items()}
    restored = {name: w.dequantize() for name, w in stored.items() if isinstance(w, Quantized)}
    found = quantized_weights(reader(stored), WIDE)
    expected = quantized_weights(reader({**weights, **restored}), WIDE)
    assert all(np.array_equal(found[name], array) for name, array in expected.items())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "asked"),
    [
        (f"{ENCODER}.fc1.weight", f"{ENCODER}.fc1.weight"),
        (f"{ENCODER}.final_layer_norm.weight", f"{ENCODER}.fc1.weight"),
        (f"{ENCODER}.final_layer_norm.bias", f"{ENCODER}.fc1.bias"),
        (f"{ENCODER}.fc2.bias", f"{ENCODER}.fc2.bias"),
        (DECODER_POSITIONS, DECODER_POSITIONS),
        (TOKEN_EMBEDDING, LOGITS),
    ],
)
def test_weights_that_are_not_finite_are_named(name: str, asked: str, value: float) -> None:
    weights = floats(WIDE)
    weights[name].flat[-1] = value
    integers = quantized_weights(reader(weights), WIDE)
    with pytest.raises(ModelError, match=rf"tensor {name} holds NaN or infinity"):
        integers[asked]


def test_what_is_beyond_float32_when_it_is_folded_is_refused() -> None:
    weights = floats(WIDE)
    weights[f"{ENCODER}.fc1.weight"][3] = 3e38
    weights[f"{ENCODER}.final_layer_norm.weight"][:] = 1e3
    weights[f"{ENCODER}.final_layer_norm.weight"][::2] = -1e3
    with pytest.raises(ModelError, match=r"fc1\.weight holds NaN or infinity"):
        quantized_weights(reader(weights), WIDE)[f"{ENCODER}.fc1.weight"]


def test_the_integers_are_the_same_on_every_machine() -> None:
    dims = ModelDimensions(8, 20, 48, 3, 1, 60, 10, 48, 4, 2)
    random = np.random.RandomState(0)
    weights = {
        name: random.randint(-(2**20), 2**20, shape).astype(np.float32) / np.float32(2**19)
        for name, shape in weight_specification(dims).items()
    }
    integers = quantized_weights(reader(weights), dims)
    digest = hashlib.sha256()
    for name in sorted(integers):
        digest.update(np.ascontiguousarray(integers[name]).tobytes())
    assert digest.hexdigest() == (
        "e9c6a9a1150b790cb9a842d8c999bd97d736b3da8fa97add142768430864eb33"
    )
