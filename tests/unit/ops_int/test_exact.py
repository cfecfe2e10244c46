"""Every op of the integer network equals its formula in exact rational arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.ops_int import model
from tests.unit.ops_int.inputs import halves, numbers, saturated, scales
from whisper_npu.ops import attention_int, fixed, product_int8, rows
from whisper_npu.ops.arrays import F32, I32

SEEDS = st.integers(0, 2**32)


def check_rows(x: I32, bits: int, got: tuple[rows.Integers, F32], norm: bool = False) -> None:
    values, scale = got
    assert values.dtype == np.dtype(f"int{bits}")
    for row, result, its_scale in zip(x.tolist(), values.tolist(), scale, strict=True):
        expected = model.norm_row(row, bits) if norm else model.quantize_row(row, bits, 12)
        assert (result, model.exact(its_scale)[0]) == expected


@given(SEEDS, st.integers(1, 5), st.sampled_from([1, 2, 3, 7, 64, 130, 600]))
@settings(max_examples=40, deadline=None)
def test_rows_are_quantised(seed: int, m: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    for bits in (8, 16):
        x = numbers(rng, (m, k))
        check_rows(x, bits, rows.quantize_int32(x, bits))
        x = halves(rng, m, k, bits)
        check_rows(x, bits, rows.quantize_int32(x, bits))


def test_features_have_a_fraction_of_their_own() -> None:
    x = np.random.default_rng(0).integers(-32768, 32768, (3, 240)).astype(np.int16)
    values, scale = rows.quantize_int32(x, 16, fixed.FEATURE_FRACTION)
    for row, result, its_scale in zip(x.tolist(), values.tolist(), scale, strict=True):
        assert (result, model.exact(its_scale)[0]) == model.quantize_row(row, 16, 13)


@given(SEEDS, st.integers(1, 5), st.sampled_from([1, 2, 3, 7, 64, 130, 600]))
@settings(max_examples=40, deadline=None)
def test_rows_are_normalised(seed: int, m: int, d: int) -> None:
    x = numbers(np.random.default_rng(seed), (m, d))
    for bits in (8, 16):
        check_rows(x, bits, rows.rms_norm(x, bits), norm=True)


def half_way_after_the_norm() -> I32:
    """A row whose root mean square and scale are powers of two, most of it halfway.

    In units of 2**17: 16256 = 127 * 128 takes the scale to a power of two, odd multiples of 64 are
    halves, and the rest brings the mean square to 2**24 within what the root keeps of it.
    """
    missing = 1024 * 2**24 - 16256**2
    row = [16256]
    while missing >= 4160**2:
        row.append((4032, 4160, -4032, -4160)[len(row) % 4])
        missing -= row[-1] ** 2
    while missing:
        row.append(math.isqrt(missing))
        missing -= row[-1] ** 2
    return np.array([row + [0] * (1024 - len(row))]).astype(np.int32) << 17


def test_a_normalised_half_goes_to_even() -> None:
    x = half_way_after_the_norm()
    values, scale = rows.rms_norm(x, 8)
    assert values[0, :5].tolist() == [127, 32, -32, -32, 32]
    assert scale[0] == 2.0**-5
    check_rows(x, 8, (values, scale), norm=True)


@given(SEEDS, st.integers(1, 4), st.sampled_from([1, 3, 64, 1100, 2050]), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_products(seed: int, m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    for bits in (8, 16):
        largest = rows.limit(bits, k)
        size = rng.integers(1, largest + 1, (m, 1))
        x = rng.integers(-size, size + 1, (m, k)).astype(f"int{bits}")
        w = rng.integers(-127, 128, (n, k)).astype(np.float32)
        if rng.random() < 0.3:
            x[:], w[:] = rng.choice([-largest, largest], x.shape), rng.choice([-127, 127], w.shape)
        x_scale, w_scale = scales(rng, m, 8), scales(rng, n, 14)
        bias = numbers(rng, (n,)) if rng.random() < 0.7 else None
        expected = model.product(x, x_scale, w, w_scale, bias)
        out = np.empty((m, n), np.int32)
        assert product_int8.product_int8(x, x_scale, w, w_scale, bias, out) is out
        assert out.tolist() == expected


def test_a_product_halfway_goes_to_even_before_the_bias() -> None:
    x = np.arange(-5, 6, dtype=np.int8)[:, None]
    one, half = np.ones(11, np.float32), np.array([2.0**-13], np.float32)
    got = product_int8.product_int8(x, one, np.ones((1, 1), np.float32), half, np.array([1], "i4"))
    assert (got[:, 0] - 1).tolist() == [-2, -2, -2, -1, 0, 0, 0, 1, 2, 2, 2]


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_embedding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(-127, 128, (9, 7)).astype(rng.choice(["i1", "f4"]))
    scale = scales(rng, 9, 14)
    tokens, positions = rng.integers(0, 9, (4, 3)), numbers(rng, (6, 7))
    for position in ([0], [3], [2, 0], [1, 3, 0, 3]):
        windows = np.array(position)
        got = product_int8.embed_int32(tokens, table, scale, positions, windows)
        expected = model.embed(tokens, table, scale, positions, windows)
        assert got.tolist() == expected.tolist()


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_sums_saturate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, bias = numbers(rng, (5, 9)), numbers(rng, (5, 9)), numbers(rng, (9,))
    for other in (y, bias):
        expected = [
            [model.clip(a + b, fixed.LARGEST) for a, b in zip(row, its, strict=True)]
            for row, its in zip(x.tolist(), np.broadcast_to(other, x.shape).tolist(), strict=True)
        ]
        cut = np.full((), 77, np.int32)
        assert product_int8.add_int32(x, other, None, cut).tolist() == expected
        terms = [*x.ravel().tolist(), *other.ravel().tolist()]
        sums = (int(value) for row in expected for value in row)
        assert cut == any(abs(value) == fixed.LARGEST for value in (*terms, *sums))
        assert product_int8.add_int32(x, other).tolist() == expected
    out = x.copy()
    assert product_int8.add_int32(out, y, out) is out
    assert np.array_equal(out, product_int8.add_int32(x, y))


def test_gelu_of_all_that_is_not_flat() -> None:
    x = np.arange(-8 * 4096, 8 * 4096 + 1, dtype=np.int32)
    assert product_int8.gelu_int32(x).tolist() == [model.gelu(value) for value in x.tolist()]


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_gelu_of_anything(seed: int) -> None:
    x = numbers(np.random.default_rng(seed), (4, 50))
    expected = [[model.gelu(value) for value in row] for row in x.tolist()]
    assert product_int8.gelu_int32(x).tolist() == expected
    assert product_int8.gelu_int32(x, x) is x
    assert x.tolist() == expected


def test_gelu_of_a_transposed_array() -> None:
    x = numbers(np.random.default_rng(1), (4, 50))
    assert np.array_equal(product_int8.gelu_int32(x.T), product_int8.gelu_int32(x).T)


def test_logits() -> None:
    x = numbers(np.random.default_rng(0), (40, 50))
    x[0, :4] = 2**24 - 1, 2**24, -(2**24) + 1, -(2**24)
    assert model.exact(product_int8.logits_float(x)) == [model.logit(v) for v in x.ravel().tolist()]


def test_bit_lengths() -> None:
    edges = {2**n + near for n in range(63) for near in (-2, -1, 0, 1, 2)}
    x = np.array(sorted(value for value in edges if 0 <= value < 2**62), np.int64)
    assert fixed.bit_length(x).tolist() == [value.bit_length() for value in x.tolist()]


def test_bit_lengths_between_the_floats_of_53_bits() -> None:
    x = np.random.default_rng(0).integers(2**52, 2**62, 2000)
    x[::3] |= 2**52 - 1
    assert fixed.bit_length(x).tolist() == [value.bit_length() for value in x.tolist()]


def test_square_roots() -> None:
    rng = np.random.default_rng(0)
    roots = np.concatenate([rng.integers(0, 2**30, 2000), np.arange(100), 2**30 - np.arange(1, 9)])
    x = np.concatenate([(roots**2 + near).clip(0, 2**60 - 1) for near in (-1, 0, 1)])
    x = np.concatenate([x, (roots + 1) ** 2 - 1, rng.integers(0, 2**60, 2000)])
    assert fixed.square_root(x).tolist() == [math.isqrt(value) for value in x.tolist()]


def test_whole_numbers_saturate() -> None:
    x = [0.0, -0.0, 2.0**31 - 1, 2.0**31, -(2.0**31) + 1, -(2.0**31), 1e300, -np.inf, np.inf]
    largest = fixed.LARGEST
    expected = [0, 0, largest, largest, -largest, -largest, largest, -largest, largest]
    assert fixed.saturate(np.array(x)).tolist() == expected


@pytest.mark.parametrize("exponent", [-14, -1, 0, 11, 12, 13, 24, 40])
def test_weights(exponent: int) -> None:
    rng = np.random.default_rng(exponent + 50)
    near = np.arange(-3, 4)
    edges = np.ldexp(np.arange(1, 17), exponent).astype(np.int64)
    distances = np.concatenate(
        [np.arange(9), (edges[:, None] + near).ravel(), rng.integers(0, 2 ** (exponent + 15), 200)]
    )
    scores = rng.integers(-(2**36), 2**36) - np.maximum(distances, 0).astype(np.float64)
    scores = np.append(scores, -np.inf)
    got = attention_int.weights_of(scores[None], np.array([exponent]))[0].tolist()
    largest = int(scores.max())
    expected = [
        model.weight((largest - int(x)) * model.two_to(-exponent)) for x in scores[:-1].tolist()
    ]
    assert got == [*expected, 0]


def test_division_of_sums() -> None:
    rng = np.random.default_rng(0)
    total = rng.integers(1, 2**23, 400)
    total[:120] = 1 << rng.integers(13, 23, 120)
    total[120:160] = (1 << rng.integers(13, 23, 40)) - 1
    mixed = (total * rng.uniform(-32767, 32767, 400)).astype(np.int64)
    # With a power of two, halves come out.
    mixed[:60] = rng.integers(-99, 99, 60) * total[:60] + total[:60] // 2
    for exponent in (-30, -7, -1, 0, 3):
        got = attention_int.divide(mixed[:, None].astype(np.float64), total, 2.0**-exponent)
        expected = [
            model.divide(a, b, model.two_to(-exponent))
            for a, b in zip(mixed.tolist(), total.tolist(), strict=True)
        ]
        assert got[:, 0].tolist() == expected


HEADS = st.sampled_from([(1, 1), (2, 3), (3, 2), (1, 5), (2, 8), (1, 64)])


def tensors(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> list[I32]:
    """Nasty ones, or ones as a model has them."""
    if rng.random() < 0.5:
        return [numbers(rng, shape, int(rng.integers(1, 32))) for _ in range(count)]
    sizes = 2.0 ** rng.uniform(4, 24, count)
    return [saturated(size * rng.standard_normal(shape)) for size in sizes]


@given(SEEDS, HEADS, st.integers(1, 2), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_attention_over_a_window(seed: int, heads: tuple[int, int], b: int, t: int) -> None:
    q, k, v = tensors(np.random.default_rng(seed), 3, (b, t, heads[0] * heads[1]))
    expected = model.window_attention(q, k, v, heads[0])
    out = np.empty_like(q)
    assert attention_int.attention_int32(q, k, v, heads[0], out) is out
    assert out.tolist() == expected.tolist()
    assert np.array_equal(attention_int.attention_int32(q, k, v, heads[0]), out)


def test_weights_of_8_bits() -> None:
    weights = np.arange(8192)
    places = 70
    got = attention_int.weights_int8(np.repeat(weights[:, None], places, axis=1))
    for place in range(places):
        expected = [model.weight_int8(w, place) for w in weights.tolist()]
        assert got[:, place].tolist() == expected


@pytest.mark.parametrize("d_head", [1, 20, 64, 256])
def test_scales_of_distances(d_head: int) -> None:
    """Of all mantissas, some products of which lie halfway."""
    m, exponents = np.arange(128, 256), np.array([-21, -20, -9, 0, 4])
    q_scale, k_scale = np.ldexp(m, exponents[m % 5])[:, None], np.ldexp(m, exponents[m % 3])[::3]
    factor, exponent = attention_int.distance_scale(q_scale, k_scale, d_head)
    assert factor.max() * 2 * 127**2 * d_head <= fixed.LARGEST
    for index in np.ndindex(factor.shape):
        scale = model.exact(q_scale)[index[0]] * model.exact(k_scale)[index[1]]
        got = int(factor[index]) * model.two_to(int(exponent[index]))
        assert got == model.distance_scale(scale, d_head) * 4096


@given(SEEDS, HEADS, st.integers(1, 2), st.sampled_from([1, 2, 3, 5, 9, 34]))
@settings(max_examples=40, deadline=None)
def test_attention_in_bytes(seed: int, heads: tuple[int, int], b: int, t: int) -> None:
    q, k, v = tensors(np.random.default_rng(seed), 3, (b, t, heads[0] * heads[1]))
    expected = model.window_attention_int8(q, k, v, heads[0])
    out = np.empty_like(q)
    assert attention_int.attention_int8(q, k, v, heads[0], out) is out
    assert out.tolist() == expected.tolist()
    assert np.array_equal(attention_int.attention_int8(q, k, v, heads[0]), out)


@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
def test_attention_in_bytes_as_a_model_has_it(size: float) -> None:
    """Scores that spread over a few units of log2, so that weights of all sizes count."""
    rng = np.random.default_rng(0)
    t, n_head, d_head = 70, 2, 64
    q, k, v = (
        saturated(4096 * factor * rng.standard_normal((1, t, n_head * d_head)))
        for factor in (size * 1.4 / math.sqrt(d_head), 1.0, 3.0)
    )
    expected = model.window_attention_int8(q, k, v, n_head)
    assert attention_int.attention_int8(q, k, v, n_head).tolist() == expected.tolist()


BATCHES = st.sampled_from([(1, 1), (1, 3), (2, 1), (2, 2)])


@given(SEEDS, HEADS, BATCHES, st.integers(1, 4), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_attention_over_the_cache(
    seed: int, heads: tuple[int, int], batch: tuple[int, int], n: int, position: int
) -> None:
    """Of windows at positions of their own, in some of the slots, in any order."""
    rng = np.random.default_rng(seed)
    (h, d_head), (windows, group) = heads, batch
    positions = np.append(position, rng.integers(0, 7, windows - 1))
    slots, sequences = rng.permutation(windows + 1)[:windows], windows * group
    (q,) = tensors(rng, 1, (sequences, n, h * d_head))
    caches = [np.full((windows + 1, group + 1, h, 12, d_head), 12345, np.int16) for _ in range(2)]
    for cache, x in zip(caches, tensors(rng, 2, (sequences, 6 + n, h * d_head)), strict=True):
        expected = np.full(cache.shape, 12345, object)
        for window in range(windows):
            first, of_it = int(positions[window]), slice(window * group, (window + 1) * group)
            alone = slots[window : window + 1]
            attention_int.store_int16(x[of_it, :first], cache, np.array([0]), alone)
            for member, j, head in np.ndindex(group, first + n, h):
                columns = slice(head * d_head, (head + 1) * d_head)
                expected[alone[0], member, head, j] = [
                    model.store(a) for a in x[of_it][member, j, columns].tolist()
                ]
        places = np.repeat(positions, group)[:, None] + np.arange(n)
        new = x[np.arange(sequences)[:, None], places]
        attention_int.store_int16(new, cache, positions, slots)
        assert cache.tolist() == expected.tolist()
    mixed = model.cached_attention(q, *caches, positions, slots)
    out = np.empty_like(q)
    assert attention_int.cached_attention_int16(q, *caches, positions, slots, out) is out
    assert out.tolist() == mixed.tolist()


@given(SEEDS, HEADS, BATCHES, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_attention_to_the_audio(
    seed: int, heads: tuple[int, int], batch: tuple[int, int], n: int
) -> None:
    rng = np.random.default_rng(seed)
    (h, d_head), (n_audio, group), t = heads, batch, int(rng.integers(1, 9))
    (q,) = tensors(rng, 1, (n_audio * group, n, h * d_head))
    # In some of the slots, in any order.
    slots = rng.permutation(n_audio + 1)
    slot = slots[:n_audio]
    cached = []
    for x in tensors(rng, 2, (len(slots), t, h * d_head)):
        values = np.empty((len(slots), h, t, d_head), np.int8)
        scale = np.empty((len(slots), h, d_head), np.float32)
        attention_int.quantize_columns(x, values, scale)
        for i, head, column in np.ndindex(len(slots), h, d_head):
            expected = model.quantize_column(x[i, :, head * d_head + column].tolist())
            its_scale = model.exact(scale[i, head, column])[0]
            assert (values[i, head, :, column].tolist(), its_scale) == expected
        cached.append((values.astype(rng.choice(["i1", "f4"])), scale))
    (k, k_scale), (v, v_scale) = cached
    mixed, scores = model.cross_attention(q, k, v, k_scale, v_scale, slot)
    out = np.empty_like(q)
    assert attention_int.cross_attention_int32(q, k, v, k_scale, v_scale, slot, out) is out
    assert out.tolist() == mixed.tolist()
    if n_audio == group == 1:
        kept = np.empty((h, n, t), np.float32)
        attention_int.cross_attention_int32(
            q, k, v, k_scale, v_scale, slot, heads=tuple(reversed(range(h))), kept=kept
        )
        # A score is exact; it is rounded with log 2, and again to float32.
        natural = scores[0, ::-1].astype(np.float64) * math.log(2.0)
        assert np.array_equal(kept, natural.astype(np.float32))
