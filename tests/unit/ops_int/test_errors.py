"""Errors of the integer ops against float64, within what their docstrings state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.ops_int.inputs import halves, numbers, saturated
from whisper_npu.ops import attention_int, product_int8, rows
from whisper_npu.ops.arrays import I32

STEP = 2.0**-12
F64 = NDArray[np.float64]


def gelu_errors(x: I32) -> F64:
    """In steps."""
    exact = [value * 0.5 * math.erfc(-value * STEP / math.sqrt(2.0)) for value in x.tolist()]
    return np.abs(product_int8.gelu_int32(x) - np.array(exact))


def test_gelu_where_it_is_not_flat() -> None:
    errors = gelu_errors(np.arange(-8 * 4096, 8 * 4096 + 1, dtype=np.int32))
    assert 0.6 < errors.max() <= 0.62


def test_gelu_beyond() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(8 * 4096, 2**31, 5000)
    x = np.concatenate([x >> rng.integers(0, 16, 5000), [2**31 - 1, 2**31 - 2]])
    x = x[x >= 8 * 4096].astype(np.int32)
    assert gelu_errors(np.concatenate([x, -x])).max() < 1e-6


def test_weights_of_all_distances() -> None:
    z = np.arange(65536)
    scores = np.append(0, -z).astype(np.float64)
    weights = attention_int.weights_of(scores[None], np.array([12]))[0, 1:]
    # A distance that is cut to z lies between z and z + 1.
    for distance in (z, z + 1):
        exact = attention_int.LARGEST_WEIGHT * np.exp2(-distance / 4096.0)
        assert (np.abs(weights - exact) <= 2.8e-4 * exact + 0.5).all()
    assert weights[0] == attention_int.LARGEST_WEIGHT
    assert (np.diff(weights) <= 0).all()
    # Next to a distance of 14 the last one is rounded up.
    assert weights[14 * 4096 - 2] == 1
    assert not weights[14 * 4096 :].any()


def predecessors(scale: F64) -> F64:
    """The next smaller numbers with a mantissa of 8 bits."""
    fraction, exponent = np.frexp(scale)
    m = fraction * 256
    return np.where(m == 128, np.ldexp(255.0, exponent - 9), np.ldexp(m - 1.0, exponent - 8))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("k", [1, 3, 64, 600, 5120])
def test_quantised_rows(bits: int, k: int) -> None:
    rng = np.random.default_rng(k)
    x = np.concatenate([numbers(rng, (200, k)), halves(rng, 20, k, bits)])
    values, scale = rows.quantize_int32(x, bits)
    step = scale.astype(np.float64)[:, None]
    error = np.abs(values * step - x * STEP)
    assert (error <= step / 2 + np.abs(x * STEP) * 2.0**-20).all()
    largest, limit = np.abs(x.astype(np.int64)).max(axis=1), rows.limit(bits, k)
    assert np.abs(values.astype(np.int32)).max() <= limit
    # The scale is the smallest that holds the row.
    some = largest > 0
    assert (largest * STEP <= limit * step[:, 0]).all()
    assert (largest[some] * STEP > limit * predecessors(step[some, 0])).all()
    assert not scale[~some].any()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("d", [16, 64, 384, 1280])
def test_normalised_rows(bits: int, d: int) -> None:
    rng = np.random.default_rng(d)
    x = np.concatenate([numbers(rng, (300, d), n) for n in (4, 14, 15, 16, 31)])
    values, scale = rows.rms_norm(x, bits)
    step = scale.astype(np.float64)[:, None]
    wide = x.astype(np.float64)
    root = np.sqrt((wide**2).mean(axis=1) + 1e-5 * 4.0**12)
    largest = np.abs(wide).max(axis=1)
    error_of_root = np.maximum(root, largest) * 2.0**-12
    exact = wide / root[:, None]
    # Half a step, and what the root and the quotient of 21 bits are off by.
    share = error_of_root / (root - error_of_root) + 2.0**-20
    assert (np.abs(values * step - exact) <= step / 2 + np.abs(exact) * share[:, None]).all()
    limit = rows.limit(bits, d)
    assert np.abs(values.astype(np.int32)).max() <= limit
    # The largest value takes nearly the whole range.
    assert (np.abs(values.astype(np.int32)).max(axis=1)[largest > 0] >= limit * 127 // 128).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_normalised_rows_of_speech_are_much_better(bits: int) -> None:
    """Rows without an outlier: what is cut off before squares are taken nearly cancels."""
    rng = np.random.default_rng(0)
    size = np.exp2(rng.uniform(6, 26, (200, 1)))
    x = saturated(size * rng.standard_normal((200, 384)))
    values, scale = rows.rms_norm(x, bits)
    step = scale.astype(np.float64)[:, None]
    exact = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5 * 4.0**12)
    assert (np.abs(values * step - exact) <= step / 2 + np.abs(exact) * 2e-4).all()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("k", [7, 384, 1536])
def test_products_of_quantised_rows(bits: int, k: int) -> None:
    rng = np.random.default_rng(k)
    x = saturated(4096 * rng.standard_normal((20, k)) * np.exp2(rng.uniform(-4, 6, (20, 1))))
    w = rng.integers(-127, 128, (30, k)).astype(np.float32)
    w_scale = np.ldexp(rng.integers(2**13, 2**14, 30), -24).astype(np.float32)
    bias = saturated(4096 * rng.standard_normal(30))
    got = product_int8.product_int8(*rows.quantize_int32(x, bits), w, w_scale, bias)
    weights = w.astype(np.float64) * w_scale[:, None]
    exact = x.astype(np.float64) @ weights.T + bias
    _, scale = rows.quantize_int32(x, bits, fraction=0)
    # Half a step of every input, and half a step of the output.
    bound = 0.5 * scale[:, None] * np.abs(weights).sum(axis=1)
    bound += 2.0**-20 * np.abs(x).astype(np.float64) @ np.abs(weights).T
    errors = np.abs(got - exact)
    assert (errors <= bound + 0.5 + 1e-6).all()
    # Errors of inputs are independent: together they are far smaller.
    usual = scale[:, None] * np.sqrt((weights**2).sum(axis=1) / 12 + 1e-12)
    assert np.sqrt((errors**2).mean()) < 1.3 * np.sqrt((usual**2 + 1 / 12).mean())


def softmax(scores: F64) -> F64:
    powers = np.exp2(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def attention_bound(
    scores: F64, values: F64, score_error: F64, value_error: float
) -> F64:  # [n, t], [t, dh], [n], scalar -> [n]
    """What one head may err by, for errors of scores (log2 units) and values.

    A score that is off by e moves its power by a share of 2^e - 1, and likewise the sum. A weight
    is off by a share of 2.8e-4 and half a unit, or by all of itself where that is less.
    """
    powers = np.exp2(scores - scores.max(axis=-1, keepdims=True))
    total = powers.sum(axis=-1)
    share = np.exp2(2 * score_error) - 1
    unit = 0.5 / attention_int.LARGEST_WEIGHT
    off = 2.8e-4 + np.minimum(unit, powers * (1 + share[:, None])).sum(axis=-1) / total
    # Twice, as the sum errs too, to first order; half again for higher orders.
    moved = share + 2 * off * (1 + share) * 1.5
    largest = np.abs(values).max()
    # The reciprocal has 16 bits; the last rounding is half of 2^-16.
    bound: F64 = moved * largest + value_error + largest * 2.0**-15 + 2.0**-17
    return bound


def bits_beyond(x: NDArray[Any], bits: int) -> int:
    return max(int(np.abs(x.astype(np.int64)).max()).bit_length() - bits, 0)


@pytest.mark.parametrize("d_head", [5, 64])
# Root mean square of the error, over that of the result.
@pytest.mark.parametrize(("size", "usual"), [(0.1, 2e-3), (1.0, 1.5e-3), (8.0, 6e-3)])
def test_attention_over_a_window(d_head: int, size: float, usual: float) -> None:
    rng = np.random.default_rng(d_head)
    t, bits = 200, attention_int.window_bits(d_head)
    q, k, v = (
        saturated(4096 * factor * rng.standard_normal((1, t, d_head)))
        for factor in (size * 1.4 / math.sqrt(d_head), size, 3.0)
    )
    got = attention_int.attention_int32(q, k, v, 1)[0] * 2.0**-16
    query, key, value = (x[0] * STEP for x in (q, k, v))
    scores = query @ key.T
    exact = softmax(scores) @ value
    # A query is off by one unit at most (half, but where it saturates), a key by half of one from
    # what all keys are off by.
    query_unit = np.exp2([float(bits_beyond(row, bits)) for row in q[0]]) * STEP
    key_unit = 2.0 ** bits_beyond(k, bits) * STEP
    off = query_unit * np.abs(key).sum(axis=1).max()
    off += 0.5 * key_unit * (np.abs(query) + query_unit[:, None]).sum(axis=1)
    value_unit = 2.0 ** bits_beyond(v, 12) * STEP if bits_beyond(v, 12) else 0.0
    bound = attention_bound(scores, value, off, value_unit)
    errors = np.abs(got - exact)
    assert (errors <= bound[:, None]).all()
    assert np.sqrt((errors**2).mean() / (exact**2).mean()) < usual


def test_weights_of_8_bits_keep_sums() -> None:
    """Of 32 neighbouring keys of one weight exactly, where 8 bits hold it: from any place on."""
    weights = np.arange(attention_int.LARGEST_WEIGHT + 1)
    w = attention_int.weights_int8(np.repeat(weights[:, None], 64, axis=1))
    assert (np.abs(w - weights[:, None] / 32) < 1).all()
    for first in range(33):
        sums = w[:, first : first + 32].sum(axis=1)
        assert np.array_equal(sums, np.minimum(weights, 255 * 32))
    # Neighbours differ much: what fewer of them sum up to is off by less than one unit.
    held = weights[:, None] <= 255 * 32
    for n in (2, 4, 8, 16):
        sums = w.reshape(-1, 64 // n, n).sum(axis=2)
        assert ((np.abs(sums - weights[:, None] * n / 32) < 1) | ~held).all()


# Errors of queries, keys and values; nothing where int8 holds them.
Quantised = tuple[F64 | float, F64 | float, F64 | float]


def attention_int8_bound(
    query: F64, key: F64, value: F64, quantised: Quantised, alike: bool
) -> F64:  # [n, dh], [t, dh], [t, dh], ... -> [n, dh]
    """What one head may err by; ``alike`` if keys and values are, of 32 neighbours each.

    With true powers p, weights are w = c p + h for a c of our choice, and their mean of values is
    off by sum(h (v - mean)) / sum(w) exactly. c is what the largest weight is for a power of 1,
    moved by the error of the largest score, which all keys have in common.
    """
    scores = query @ key.T
    distance = scores.max(axis=1, keepdims=True) - scores
    powers = np.exp2(-distance)
    mean = powers @ value / powers.sum(axis=1, keepdims=True)
    of_query, of_key, of_value = (
        np.broadcast_to(error, x.shape)
        for error, x in zip(quantised, (query, key, value), strict=True)
    )
    # Errors of scores, and the largest of a query.
    off = of_query @ np.abs(key).T + (np.abs(query) + of_query) @ of_key.T
    most = off.max(axis=1, keepdims=True)
    # Distances are multiplied by a number of few bits.
    bits = 31 - (2 * 127**2 * query.shape[1]).bit_length()
    off = off + 2.0**-bits * (distance + 2 * most)
    c = attention_int.LARGEST_WEIGHT / 32 * np.exp2(-most)
    # A weight of 8 bits is off by less than a unit, but of 32 neighbours only where it has to be
    # 255 and not more.
    unit, share = (0.0, 31 / attention_int.LARGEST_WEIGHT) if alike else (1.0, 0.0)
    # Half a unit of 13 bits, the polynomial, and what is cut off a distance, are there besides.
    h = powers * (np.exp2(off) * (1 + 2.8e-4 + share) - 1) + (0.5 / 32 + unit) / c
    total = powers.sum(axis=1, keepdims=True) - h.sum(axis=1, keepdims=True)
    assert (total > 0).all()
    moved = np.einsum("nt,ntd->nd", h, np.abs(value - mean[:, None])) / total
    largest = np.abs(value).max(axis=0) + of_value.max(axis=0)
    # The reciprocal has 16 bits; the last rounding is half of 2^-16.
    bound: F64 = moved + of_value.max(axis=0) + largest * 2.0**-15 + 2.0**-17
    return bound


def error_of_quantised(x: F64, axis: int | None) -> F64:
    """Half a scale, which is at most a 128th more than the largest magnitude over 127."""
    largest = np.abs(x).max(axis=axis, keepdims=True)
    error: F64 = largest * (129 / 128 / 127 / 2) + np.abs(x) * 2.0**-20
    return error


@pytest.mark.parametrize("d_head", [5, 64])
# Root mean square of the error, over that of the result.
@pytest.mark.parametrize(("size", "usual"), [(0.1, 0.012), (0.5, 0.014), (1.0, 0.03)])
def test_attention_in_bytes(d_head: int, size: float, usual: float) -> None:
    rng = np.random.default_rng(d_head)
    q, k, v = (
        saturated(4096 * factor * rng.standard_normal((1, 200, d_head)))
        for factor in (size * 1.4 / math.sqrt(d_head), size, 3.0)
    )
    got = attention_int.attention_int8(q, k, v, 1)[0] * 2.0**-16
    query, key, value = (x[0] * STEP for x in (q, k, v))
    quantised = (
        error_of_quantised(query, 1), error_of_quantised(key, None), error_of_quantised(value, 0),
    )  # fmt: skip
    errors = np.abs(got - softmax(query @ key.T) @ value)
    bound = attention_int8_bound(query, key, value, quantised, alike=False)
    assert (errors <= bound).all()
    assert np.sqrt((errors**2).mean() / (got**2).mean()) < usual


@pytest.mark.parametrize("spread", [4, 20, 40])
def test_attention_in_bytes_to_neighbours_alike(spread: int) -> None:
    """What int8 holds: all that is left are 13 bits of a weight, and few of the multiplier."""
    rng = np.random.default_rng(spread)
    q, k = rng.integers(-spread, spread, (50, 64)), rng.integers(-20, 20, (20, 64))
    v = rng.integers(-127, 128, (20, 64))
    # The largest of a query and of all keys adds the same to all scores.
    q[:, 0], k[:, 0], v[0] = 127, 127, 127
    # Scales whose product has 16 bits, of which 10 are kept.
    q, k, v = q * 213, k * 171, v << 8
    k, v = (np.repeat(x, 32, axis=0) for x in (k, v))
    whole = [x[None].astype(np.int32) for x in (q, k, v)]
    got = attention_int.attention_int8(whole[0], whole[1], whole[2], 1)
    query, key, value = (x * STEP for x in (q, k, v))
    powers = softmax(query @ key.T)
    bound = attention_int8_bound(query, key, value, (0.0, 0.0, 0.0), alike=True)
    errors = np.abs(got[0] * 2.0**-16 - powers @ value)
    assert (errors <= bound).all()


def test_many_small_weights_together() -> None:
    """Of 15 units of 13 bits: rounded to the nearest of 8 bits, all of them would be 0."""
    k, v = np.full((2, 1, 1 + 44 * 32, 1), -108 << 9, np.int32)
    k[0, 0], v[0, 0] = 127 << 9, 127 << 9
    q = np.full((1, 1, 1), 1270, np.int32)
    got = attention_int.attention_int8(q, k, v, 1)[0] * 2.0**-16
    query, key, value = (x[0] * STEP for x in (q, k, v))
    powers = np.exp2(query @ (key - key[0]).T)
    assert round(8191 * powers[0, 1]) == 15
    exact = softmax(query @ key.T) @ value
    bound = attention_int8_bound(query, key, value, (0.0, 0.0, 0.0), alike=True)
    assert (np.abs(got - exact) <= bound).all()


@pytest.mark.parametrize("d_head", [5, 64])
@pytest.mark.parametrize("size", [0.1, 1.0, 8.0])
def test_attention_over_the_cache(d_head: int, size: float) -> None:
    rng = np.random.default_rng(d_head)
    t, n = 150, 40
    q, k, v = (
        saturated(4096 * factor * rng.standard_normal((1, count, d_head)))
        for factor, count in ((size * 1.4 / math.sqrt(d_head), n), (size, t), (3.0, t))
    )
    caches = [np.empty((1, 1, 1, t, d_head), np.int16) for _ in range(2)]
    slot = np.array([0])
    for x, cache in zip((k, v), caches, strict=True):
        attention_int.store_int16(x, cache, np.array([0]), slot)
    at = np.array([t - n])
    got = attention_int.cached_attention_int16(q, *caches, at, slot)[0] * 2.0**-16
    query, key, value = (x[0] * STEP for x in (q, k, v))
    for i in range(n):
        seen = t - n + i + 1
        scores = query[i : i + 1] @ key[:seen].T
        exact = (softmax(scores) @ value[:seen])[0]
        off = 2.0 ** bits_beyond(q[0, i], 15) * STEP * np.abs(key[:seen]).sum(axis=1).max()
        off += 2.0**-10 * (np.abs(query[i]) + STEP).sum()
        bound = attention_bound(scores, value[:seen], np.array([off]), 2.0**-10)
        assert (np.abs(got[i] - exact) <= bound).all()


@pytest.mark.parametrize("size", [0.1, 1.0, 8.0])
def test_attention_to_the_audio(size: float) -> None:
    rng = np.random.default_rng(3)
    t, n, d_head = 300, 40, 64
    columns = np.exp2(rng.uniform(-2, 2, d_head))
    q, k, v = (
        saturated(4096 * factor * rng.standard_normal((1, count, d_head)))
        for factor, count in (
            (size * 1.4 / math.sqrt(d_head) / columns, n),
            (size * columns, t),
            (3.0 * columns, t),
        )
    )
    (keys, k_scale), (values, v_scale) = (
        (np.empty((1, 1, t, d_head), np.int8), np.empty((1, 1, d_head), np.float32))
        for _ in range(2)
    )
    attention_int.quantize_columns(k, keys, k_scale)
    attention_int.quantize_columns(v, values, v_scale)
    query, key, value = (x[0] * STEP for x in (q, k, v))
    # Half a unit, a whole one where 127.5 and more become 127.
    assert (np.abs(keys[0, 0] * k_scale[0, 0] - key) <= k_scale[0, 0]).all()
    assert (np.abs(values[0, 0] * v_scale[0, 0] - value) <= v_scale[0, 0]).all()
    kept = np.empty((1, n, t), np.float32)
    got = attention_int.cross_attention_int32(
        q, keys, values, k_scale, v_scale, np.array([0]), None, (0,), kept
    )
    # Against the keys and values as they are held: what int8 costs is the test above.
    held_key, held_value = keys[0, 0] * k_scale[0, 0], values[0, 0] * v_scale[0, 0]
    scores = query @ held_key.T.astype(np.float64)
    wide = query * k_scale[0, 0]
    query_unit = np.abs(wide).max(axis=1) * 2.0**-14
    off = query_unit * np.abs(keys[0, 0].astype(np.float64)).sum(axis=1).max()
    natural = math.log(2.0) * scores
    assert (np.abs(kept[0] - natural) <= off[:, None] * 0.7 + np.abs(natural) * 2e-7).all()
    bound = attention_bound(scores, held_value.astype(np.float64), off, 0.0)
    exact = softmax(scores) @ held_value
    errors = np.abs(got[0] * 2.0**-16 - exact)
    assert (errors <= bound[:, None]).all()
    assert np.sqrt((errors**2).mean() / (exact**2).mean()) < 5e-4
