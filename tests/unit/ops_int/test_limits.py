"""Every intermediate number at the limit of what holds it, against integers that cannot overflow.

Each test says what number it drives where, and asserts that the number gets there.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.ops_int import model
from whisper_npu.ops import attention_int, fixed, product_int8, rows
from whisper_npu.ops.arrays import I32

LARGEST = fixed.LARGEST


@pytest.mark.parametrize("k", [1, 80, 240, 518, 519, 1024, 1536, 5120])
@pytest.mark.parametrize("bits", [8, 16])
def test_sums_of_products(bits: int, k: int) -> None:
    """All of the largest value: int32 holds the sum, and no integer larger by one would do."""
    largest = rows.limit(bits, k)
    x = np.full((2, k), largest).astype(f"int{bits}")
    x[1] *= -1
    w = np.full((2, k), 127, np.float32)
    # Sums that are odd, as those beyond 24 bits of a float32 would be rounded to even.
    w[1, -1] = 126
    sums = product_int8.integer_sums(x, w)
    expected = [[127 * k * largest, 127 * k * largest - largest]]
    expected.append([-value for value in expected[0]])
    assert sums.tolist() == expected
    assert expected[0][0] <= LARGEST
    if bits == 16 and k > 518:
        assert expected[0][0] + 127 * k > LARGEST


def test_halves_of_the_largest_int16() -> None:
    """256 times an int8 and an int8; of a number larger by one the first would be 128."""
    largest = rows.limit(16, 1)
    x = np.array([largest, -largest, largest + 1])
    low = x.astype(np.int8)
    assert ((x - low) >> 8).tolist() == [127, -127, 128]
    assert low.tolist() == [127, -127, -128]


def test_a_partial_sum_in_float32() -> None:
    """1024 products of 128 and 127, and one less, are below 2**24 and exact."""
    x = np.full((1, 1024), 32767, np.int16)
    w = np.full((1, 1024), 127, np.float32)
    w[0, 0] = 126
    assert 2**23 < 128 * 127 * 1024 < 2**24
    assert product_int8.integer_sums(x, w)[0, 0] == 32767 * (127 * 1024 - 1)


@pytest.mark.parametrize("exponent", range(-56, -30))
def test_products_of_53_bits(exponent: int) -> None:
    """The largest sum times the largest mantissas, cut at every bit, and near halves."""
    sums = np.array([[LARGEST, -LARGEST, LARGEST - 1, 2**30 + 1]], np.float64)
    sums = np.repeat(sums, 3, axis=0)
    m, w = [255, 128, 171], [16383, 8193, 8192, 10923]
    assert (LARGEST * 255 * 16383).bit_length() == 53
    x_scale = np.ldexp(np.array(m), exponent + 12).astype(np.float32)
    w_scale = np.ldexp(np.array(w), -12).astype(np.float32)
    expected = [
        [
            model.clip(round(int(total) * a * b * model.two_to(exponent + 12)), LARGEST)
            for total, b in zip(row, w, strict=True)
        ]
        for row, a in zip(sums.tolist(), m, strict=True)
    ]
    assert product_int8.scale_sums(sums.copy(), x_scale, w_scale).tolist() == expected


def test_results_that_a_bias_brings_to_the_limit() -> None:
    """Results of any size, up to far beyond 53 bits, saturate; a bias counts before that."""
    x = np.full((1, 4), 127, np.int8)
    w = np.full((2, 4), 127, np.float32)
    w[1] *= -1
    one = np.ones(1, np.float32)
    for exponent in (3, 4, 20, 60, 100):
        w_scale = np.full(2, 2.0**exponent, np.float32)
        for bias in (0, LARGEST, -LARGEST):
            biases = np.array([bias, bias], np.int32)
            got = product_int8.product_int8(x, one, w, w_scale, biases)
            assert got.tolist() == model.product(x, one, w, w_scale, biases)
    bias = np.array([-(2**30), 2**30], np.int32)
    got = product_int8.product_int8(x, one, w, np.full(2, 8.0, np.float32), bias)
    total = 127**2 * 4 * 2**15
    assert total < LARGEST
    assert got[0].tolist() == [total - 2**30, -total + 2**30]


def test_the_residual_saturates() -> None:
    edge = np.array([LARGEST, -LARGEST, LARGEST - 5, 5 - LARGEST, 0], np.int32)
    sums = product_int8.add_int32(edge[:, None], edge)
    expected = [[model.clip(a + b, LARGEST) for b in edge.tolist()] for a in edge.tolist()]
    assert sums.tolist() == expected
    got = product_int8.embed_int32(
        np.array([[0, 1]]), np.array([[127], [-127]], np.int8), np.full(2, 4096.0, np.float32),
        np.array([[LARGEST], [-LARGEST]], np.int32), np.array([0]),
    )  # fmt: skip
    assert got.ravel().tolist() == [LARGEST, -LARGEST]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_residual_is_cut_where_a_term_or_a_sum_is_at_the_limit(sign: int) -> None:
    for terms, is_cut in (
        ((LARGEST, 0), True),
        ((LARGEST, -LARGEST), True),
        ((-5, LARGEST), True),
        ((LARGEST - 5, 5), True),
        ((LARGEST - 1, LARGEST - 1), True),
        ((LARGEST - 1, 0), False),
        ((LARGEST - 1, 1 - LARGEST), False),
        ((LARGEST - 5, 4), False),
    ):
        x, y = np.zeros((2, 3, 4), np.int32)
        x[1, 2], y[1, 2] = (sign * term for term in terms)
        cut = np.full((), 77, np.int32)
        product_int8.add_int32(x, y, x, cut)
        assert cut == is_cut, terms


def test_gelu_of_the_largest() -> None:
    """Products of a coefficient and a place are below 2**31 on all intervals, places at the end."""
    x = np.array([LARGEST, LARGEST - 1, -LARGEST, *range(2047, 9 * 2048, 2048)], np.int32)
    assert product_int8.gelu_int32(x).tolist() == [model.gelu(value) for value in x.tolist()]
    for c in product_int8.GELU_COEFFICIENTS:
        assert 2047 * (abs(c[1]) + abs(c[2]) + abs(c[3])) + abs(c[0]) < 2**31


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("k", [1, 2, 512, 516, 1536])
def test_quantised_values_of_31_bits(bits: int, k: int) -> None:
    """x times a reciprocal of 2**21 has 52 bits; every mantissa comes up as the scale's."""
    largest = np.unique(np.linspace(2**30, LARGEST, 300).astype(np.int64))
    x = np.zeros((len(largest), k), np.int32)
    few = x[:, :8]
    few[:] = np.random.default_rng(k).integers(-(2**30), 2**30, few.shape)
    x[:, 0] = largest * np.where(largest % 2, 1, -1)
    values, scale = rows.quantize_int32(x, bits)
    mantissas = set()
    for row, result, its_scale in zip(x.tolist(), values.tolist(), scale, strict=True):
        assert (result, model.exact(its_scale)[0]) == model.quantize_row(row, bits, 12)
        mantissas.add(np.frexp(its_scale)[0] * 256)
    assert len(mantissas) == 128


def test_values_just_beyond_a_scale() -> None:
    """A quotient that float64 holds only rounded is still on the right side of every scale."""
    for bits, k in ((8, 600), (16, 1), (16, 600), (16, 1531)):
        limit = rows.limit(bits, k)
        largest = [
            value
            for m in (128, 129, 200, 255)
            for e in range(30 - limit.bit_length() - 7)
            for value in (limit * m * 2**e - 1, limit * m * 2**e, limit * m * 2**e + 1)
        ]
        x = np.zeros((len(largest), k), np.int32)
        x[:, 0] = largest
        values, scale = rows.quantize_int32(x, bits)
        for row, result, its_scale in zip(x.tolist(), values.tolist(), scale, strict=True):
            assert (result, model.exact(its_scale)[0]) == model.quantize_row(row, bits, 12)


def check_norm(x: I32) -> None:
    for bits in (8, 16):
        values, scale = rows.rms_norm(x, bits)
        for row, result, its_scale in zip(x.tolist(), values.tolist(), scale, strict=True):
            assert (result, model.exact(its_scale)[0]) == model.norm_row(row, bits)


@pytest.mark.parametrize("d", [1, 384, 1280, 2**14])
def test_squares(d: int) -> None:
    """Squares of 28 bits, for the most columns a sum of 2**42, a dividend of 2**62, a root of 24
    bits."""
    x = np.full((6, d), LARGEST, np.int32)
    # Shifted down, -LARGEST is -2**14.
    x[1] = -LARGEST
    x[2, ::2] *= -1
    x[3, 1:] = 0
    x[4] = 2**30
    x[5] = 2**14 - 1
    assert (-LARGEST >> 17) ** 2 * 2**14 * 2**20 == 2**62
    check_norm(x)


def test_epsilon_alone_and_next_to_few() -> None:
    """The smallest root, 13 units, with 10 fraction bits, and the largest quotients."""
    for d in (1, 2, 16, 384, 1280):
        x = np.zeros((7, d), np.int32)
        x[1:, 0] = 1, -1, 2**13, 2**14 - 1, 2**14, -LARGEST
        check_norm(x)


def test_divisors_of_32_bits_and_powers_of_two() -> None:
    """A quotient is 2**20 to 2**21 whatever the bits of root and mantissa."""
    rng = np.random.default_rng(0)
    exponents = np.arange(31)
    x = np.concatenate(
        [
            np.repeat((1 << exponents)[:, None], 64, axis=1),
            np.repeat(LARGEST >> exponents[:, None], 64, axis=1),
            rng.integers(-(1 << exponents)[:, None], (1 << exponents)[:, None] + 1, (31, 64)),
        ]
    ).clip(-LARGEST, LARGEST)
    check_norm(x.astype(np.int32))


def test_scores_of_a_window_at_their_limit() -> None:
    """64 products of -2**12 and -2**12 are 2**30; value sums over 1500 keys have 36 bits."""
    t, d_head = 1500, 64
    assert d_head * 4 ** attention_int.window_bits(d_head) == 2**30
    k = np.full((1, t, d_head), -LARGEST, np.int32)
    k[0, ::2] = LARGEST
    q = np.full((1, t, d_head), -LARGEST, np.int32)
    q[0, 0] = LARGEST
    v = np.full((1, t, d_head), LARGEST, np.int32)
    v[0, :, 1], v[0, :, 2] = -LARGEST, np.where(np.arange(t) % 2, 5, -LARGEST)
    out = attention_int.attention_int32(q, k, v, 1)
    # The rows, those with 64 equal columns, are of two kinds: the model does two.
    expected = model.window_attention(q[:, :2, :3], k[:, :2, :3], v[:, :2, :3], 1)
    assert out[0, :2, :3].tolist() == expected[0].tolist()
    assert (out[0, 1:] == out[0, 1]).all()
    # Values at the limit saturate at 2**15 with 16 fraction bits.
    assert out[0, 0, :2].tolist() == [LARGEST, -LARGEST]


def test_all_keys_of_a_window_alike() -> None:
    """The largest sum of weights, 1500 * 8191, and the largest of weighted values."""
    t, d_head = 1500, 4
    q, k = np.ones((2, 1, t, d_head), np.int32)
    v = np.full((1, t, d_head), 4095, np.int32)
    v[..., 1], v[..., 2], v[:, ::2, 3] = -4095, 2047, 0
    out = attention_int.attention_int32(q, k, v, 1)[0, 0]
    totals = [value * 8191 for value in v[0].astype(object).sum(axis=0)]
    assert totals[0].bit_length() == 36
    assert out.tolist() == [model.divide(int(x), t * 8191, model.two_to(4)) for x in totals]


# Its scale is 255 * 2**-4, its largest magnitude 127 of them.
OF_255 = 127 * 255 >> 4


@pytest.mark.parametrize("size", [127, OF_255 >> 2, OF_255, 127 * 255 << 16])
def test_scores_of_bytes_at_their_limit(size: int) -> None:
    """64 products of 127 and -127; a distance of twice that times the multiplier has 31 bits."""
    rng = np.random.default_rng(0)
    d_head = 64
    # The first 0, 1, ... columns of a key have the other sign.
    signs = np.where(np.arange(d_head) < np.arange(d_head + 1)[:, None], -1, 1)
    q, k = ((signs * each)[None].astype(np.int32) for each in (OF_255, size))
    v = rng.integers(-(2**20), 2**20, k.shape).astype(np.int32)
    v[0, :, 0], v[0, ::2, 1] = LARGEST, -LARGEST
    (query, q_scale), (key, k_scale) = (
        attention_int.quantized_head(x[0], axis=(0, 1)) for x in (q, k)
    )
    assert abs(query @ key.T).max() == 127**2 * 64
    m, _ = attention_int.distance_scale(q_scale, k_scale, d_head)
    assert int(m.max() * 2 * 127**2 * 64).bit_length() == 31
    some = q[:, [0, 30, 64]]
    out = attention_int.attention_int8(some, k, v, 1)
    assert out.tolist() == model.window_attention_int8(some, k, v, 1).tolist()
    assert (out[..., 0] == LARGEST).all()


@pytest.mark.parametrize(("t", "bits"), [(1500, (19, 26, 49)), (8192, (21, 28, 51))])
def test_all_keys_of_bytes_alike(t: int, bits: tuple[int, ...]) -> None:
    """The largest sum of weights, and the largest of weighted values, times the largest scale."""
    q, k = np.ones((2, 1, t, 4), np.int32)
    v = np.full((1, t, 4), 127 * 255 << 11, np.int32)
    # The same with the other sign, a sum that is odd, and a smaller one.
    v[..., 1], v[0, -1, 2], v[:, ::2, 3] = -v[0, 0, 0], 126 * 255 << 11, 0
    values, scale = attention_int.quantized_head(v[0], axis=0)
    assert (scale == 255 * 2.0 ** (11 - 12)).all()
    weights = attention_int.weights_int8(np.full(t, attention_int.LARGEST_WEIGHT))
    total, mixed = int(weights.sum()), int(weights @ values[:, 0])
    assert (total, mixed) == (255 * t, 255 * 127 * t)
    product = 2 ** (15 + total.bit_length()) // total * mixed * 255
    assert tuple(x.bit_length() for x in (total, mixed, product)) == bits
    out = attention_int.attention_int8(q[:, :1], k, v, 1)
    expected = model.window_attention_int8(q[:, :1], k, v, 1)
    assert out.tolist() == expected.tolist()


def test_quotients_with_a_scale() -> None:
    """Of the largest sums of weights of 8 bits, values of 127, and mantissas of any scale."""
    for near in (8192 * 255, 2**20, 2**20 - 1, 2**20 + 1, 1500 * 255, 2**18, 255, 1):
        mixed = [127 * near, 127 * near - 1, -127 * near, 63 * near + near // 2, 1 - near]
        for m, exponent in ((255, 0), (128, 4), (171, -8), (129, 12)):
            factor = float(m * model.two_to(exponent))
            got = attention_int.divide(np.array([mixed], np.float64), np.array([near]), factor)
            expected = [model.divide(x, near, m * model.two_to(exponent)) for x in mixed]
            assert got[0].tolist() == expected


@pytest.mark.parametrize("zero", range(3))
def test_queries_keys_or_values_that_are_zeros(zero: int) -> None:
    """Whole ones of a head, then one query, one key and one column of values."""
    rng = np.random.default_rng(zero)
    x = rng.integers(-5000, 5000, (3, 1, 40, 16)).astype(np.int32)
    some = x.copy()
    some[zero, :, 3] = 0
    some[2, ..., 5] = 0
    x[zero, ..., :8] = 0
    for q, k, v in (some, x):
        out = attention_int.attention_int8(q, k, v, 2)
        assert out.tolist() == model.window_attention_int8(q, k, v, 2).tolist()
    # Of the first head keys are alike, or there is nothing to sum up.
    assert (out[..., :8] == out[:, :1, :8]).all()
    assert out[..., :8].any() == (zero != 2)


def test_a_distance_of_one_that_is_beyond_all_weights() -> None:
    """Scales of 2**12: scores that differ by one differ by 2**24 in log2 units."""
    step = 2**24
    q = np.array([[[127 * step, step], [127 * step, -step]]], np.int32)
    k = np.array([[[127 * step, 0], [127 * step, step]]], np.int32)
    v = np.array([[[254, -254], [126, 126]]], np.int32)
    assert 127 * step < LARGEST
    out = attention_int.attention_int8(q, k, v, 1)
    assert out.tolist() == model.window_attention_int8(q, k, v, 1).tolist()
    # Each query has one of the keys alone.
    assert out[0].tolist() == [[16 * 126, 16 * 126], [16 * 254, -16 * 254]]


def test_scores_too_small_to_differ() -> None:
    """The largest distance that queries and keys of one unit have is below 2**-12."""
    rng = np.random.default_rng(0)
    q, k = rng.choice(np.array([-1, 1], np.int32), (2, 1, 50, 64))
    v = rng.integers(-5000, 5000, (1, 50, 64)).astype(np.int32)
    scales = [attention_int.quantized_head(x[0], axis=(0, 1))[1] for x in (q, k)]
    m, e = attention_int.distance_scale(scales[0], scales[1], 64)
    assert 0 < np.ldexp(float(m.max()), int(e.max())) * 2 * 127**2 * 64 < 1
    out = attention_int.attention_int8(q, k, v, 1)
    assert np.array_equal(out, attention_int.attention_int8(np.zeros_like(q), k, v, 1))
    assert out[:, :2].tolist() == model.window_attention_int8(q[:, :2], k, v, 1).tolist()


def test_scores_over_the_cache_at_their_limit() -> None:
    """64 products of -2**15 and 32767 have 36 bits; value sums over 448 keys have 37 bits, and 53
    with a reciprocal."""
    ctx, d_head = 448, 64
    caches = [np.full((1, 1, 1, ctx, d_head), 32767, np.int16) for _ in range(2)]
    k, v = caches
    v[..., 1], v[0, 0, 0, ::2, 2] = -32767, -32766
    q = np.full((1, 1, d_head), -LARGEST, np.int32)
    assert (2**15 * 32767 * 64).bit_length() == 36
    assert (ctx * 8191 * 32767).bit_length() == 37
    for first in (32767, -32767):
        k[0, 0, 0, 0] = first
        windows = np.array([ctx - 1]), np.array([0])
        out = attention_int.cached_attention_int16(q, k, v, *windows)
        expected = model.cached_attention(q, k, v, *windows)
        assert out.tolist() == expected.tolist()


@pytest.mark.parametrize("count", [2, 3, 511, 512, 1023, 1024])
def test_quotients_of_53_bits(count: int) -> None:
    """Sums of weights with 23 bits, values at the limit: the product is 2**53 at most."""
    total = count * 8191
    power = 1 << (total.bit_length() - 1)
    for near in (total, total - 1, power, power - 1, power + 1):
        b = near.bit_length()
        mixed = 32768 * near - 1
        assert (2 ** (15 + b) // near) * mixed <= 2**53
        for exponent in (-7, 0, 5):
            sums = np.array([[float(mixed), -float(mixed)]])
            got = attention_int.divide(sums, np.array([near]), 2.0**-exponent)
            expected = [model.divide(x, near, model.two_to(-exponent)) for x in (mixed, -mixed)]
            assert got[0].tolist() == expected


def test_the_cache_saturates_at_64() -> None:
    x = np.array(
        [2**18 - 5, 2**18 - 4, 2**18, LARGEST, -LARGEST, 4 - 2**18, 3 - 2**18, 3, 4, -4, -5]
    )
    cache = np.zeros((1, 1, 1, 2, len(x)), np.int16)
    attention_int.store_int16(x[None, None].astype(np.int32), cache, np.array([1]), np.array([0]))
    expected = [32767, 32767, 32767, 32767, -32767, -32767, -32767, 0, 1, 0, -1]
    stored = cache[0, 0, 0]
    assert stored[1].tolist() == expected == [model.store(value) for value in x.tolist()]
    assert not stored[0].any()


def test_scores_that_stand_for_more_than_their_integers() -> None:
    """Queries and keys of 31 bits: a score is shifted up, one unit of it is a distance of 2**10."""
    shift = 2 * (31 - attention_int.window_bits(2))
    assert 2 * fixed.FRACTION - shift < 0
    q = np.array([[[2**30, 0], [0, 2**30], [LARGEST, LARGEST]]], np.int32)
    k = np.array([[[2**30, 2**29], [2**30 - 2**18, 2**29], [-(2**30), LARGEST]]], np.int32)
    v = np.array([[[1, 2], [30, 40], [500, 600]]], np.int32)
    got = attention_int.attention_int32(q, k, v, 1)
    assert got.tolist() == model.window_attention(q, k, v, 1).tolist()
    # The first query tells its first key from the second.
    assert got[0, 0].tolist() == [16, 32]


def test_queries_beyond_53_bits() -> None:
    """Keys of 31 bits have scales of 2**12, with which a query has 55 bits."""
    x = np.array([[[LARGEST, LARGEST], [-LARGEST, 1], [2**30, -5]]], np.int32)
    k, k_scale = np.empty((1, 1, 3, 2), np.int8), np.empty((1, 1, 2), np.float32)
    attention_int.quantize_columns(x, k, k_scale)
    assert k_scale.tolist() == [[[4096.0, 4096.0]]]
    # 127.99 and 127.5 would be 128.
    assert k[0, 0].tolist() == [[127, 127], [-127, 0], [64, 0]]
    v, v_scale = np.array([[[[100, -100], [7, 9], [1, 127]]]], np.int8), k_scale
    for values in ([LARGEST, 1], [-LARGEST, LARGEST], [1, -1], [LARGEST - 1, 2**30 - 1], [0, 0]):
        q = np.array([[values]], np.int32)
        inputs = q, k, v, k_scale, v_scale, np.array([0])
        got = attention_int.cross_attention_int32(*inputs)
        assert got.tolist() == model.cross_attention(*inputs)[0].tolist()


def test_logits_beyond_24_bits() -> None:
    x = np.array([LARGEST, -LARGEST, 2**24 - 1, 2**24, 1], np.int32)
    logits = product_int8.logits_float(x)
    most = 4096 - 2.0**-12
    assert logits.tolist() == [most, -most, most, most, 2.0**-12]
