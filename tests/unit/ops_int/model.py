"""The ops of the integer network in Python's integers and fractions, one number at a time.

Written from the formulas of the docstrings, not from the code: no float, no array arithmetic, and
nothing that can overflow or be rounded by accident. Only tables of coefficients are shared. Arrays
come in and go out as NumPy's; scales go out as fractions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.attention_int import EXPONENTIAL
from whisper_npu.ops.product_int8 import GELU_COEFFICIENTS

Array = NDArray[Any]
Row = list[int]

LARGEST = 2**31 - 1


def two_to(exponent: int) -> Fraction:
    return Fraction(2) ** exponent


def exact(x: Array) -> list[Fraction]:
    """Floats of any type as they are."""
    return [Fraction(float(value)) for value in x.ravel()]


def clip(x: int, largest: int) -> int:
    return max(-largest, min(largest, x))


def nearest(x: Fraction) -> int:
    """Halves go up."""
    return math.floor(x + Fraction(1, 2))


def cut(x: int, bits: int, largest: int) -> int:
    return min(nearest(Fraction(x, 2**bits)), largest)


def limit(bits: int, k: int) -> int:
    if bits == 8:
        return 127
    return min(127 * 256 + 127, LARGEST // (127 * k))


def smallest_scale(ratio: Fraction) -> tuple[int, int]:
    """m and e of the smallest ``m * 2**e >= ratio`` where m has at most 8 bits; 0 has m = 0."""
    if not ratio:
        return 0, 0
    e = math.floor(math.log2(ratio)) - 10
    while math.ceil(ratio / two_to(e)) > 255:
        e += 1
    return math.ceil(ratio / two_to(e)), e


def rounded(row: Row, factor: Fraction) -> Row:
    """Products rounded to the nearest, halves to even, as round() of a fraction is."""
    results = {x: round(x * factor) for x in set(row)}
    return [results[x] for x in row]


def quantize_row(row: Row, bits: int, fraction: int) -> tuple[Row, Fraction]:
    m, e = smallest_scale(Fraction(max(map(abs, row)), limit(bits, len(row))))
    if not m:
        return [0] * len(row), Fraction(0)
    reciprocal = (2**28 // m) / two_to(28 + e)
    return rounded(row, reciprocal), m * two_to(e - fraction)


def norm_row(row: Row, bits: int) -> tuple[Row, Fraction]:
    d, largest = len(row), max(map(abs, row))
    if not largest:
        return [0] * d, Fraction(0)
    s = max(0, largest.bit_length() - 14)
    squares = sum((x >> s) ** 2 for x in row)
    epsilon = round(Fraction(d * 2**24, 100_000)) >> (2 * s)
    u = math.isqrt((squares + epsilon) * 2**20 // d)
    m, e = smallest_scale(Fraction(largest * 2**10, u * limit(bits, d)))
    # The quotient has 21 bits, or is 2**20 or 2**21.
    k = (u * m).bit_length() + 20
    reciprocal = (2**k // (u * m)) * two_to(10 - k - e)
    # r is per unit of the numbers that were squared: 2**-s is in the scale.
    return rounded(row, reciprocal), m * two_to(e - s)


def product(
    x: Array, x_scale: Array, w: Array, w_scale: Array, bias: Array | None = None
) -> list[list[int]]:
    """Rows of outputs."""
    result = []
    for row, row_scale in zip(x.tolist(), exact(x_scale), strict=True):
        outputs = []
        for column, (weights, scale) in enumerate(zip(w.tolist(), exact(w_scale), strict=True)):
            total = sum(a * int(b) for a, b in zip(row, weights, strict=True))
            y = round(total * row_scale * scale * 2**12)
            outputs.append(clip(y + (0 if bias is None else int(bias[column])), LARGEST))
        result.append(outputs)
    return result


def embed(tokens: Array, table: Array, scale: Array, positions: Array, position: Array) -> Array:
    b, n = tokens.shape
    d = table.shape[1]
    scales = exact(scale)
    result = np.empty((b, n, d), object)
    for i, j, column in np.ndindex(b, n, d):
        token = int(tokens[i, j])
        y = round(int(table[token, column]) * scales[token] * 2**12)
        place = int(position[i * len(position) // b]) + j
        result[i, j, column] = clip(y + int(positions[place, column]), LARGEST)
    return result


def gelu(x: int) -> int:
    t = abs(x)
    i = min(t // 2048, 8)
    u = t % 2048
    c0, c1, c2, c3 = GELU_COEFFICIENTS[i]
    h = c0 + u * (c1 + u * (c2 + u * c3 // 2048) // 2048) // 2048
    return max(x, 0) - (h + 128) // 256


def logit(x: int) -> Fraction:
    return Fraction(clip(x, 2**24 - 1), 2**12)


def weight(distance: Fraction) -> int:
    """The weight of a score that lies so far below the largest, in log2 units."""
    z = min(math.floor(distance * 4096), 65535)
    n, g = z // 4096, Fraction(z % 4096, 4096)
    # 15 fraction bits after each step.
    c0, c1, c2, c3 = EXPONENTIAL
    power = c0 + nearest(g * (c1 + nearest(g * (c2 + nearest(g * c3)))))
    return nearest(Fraction(power, 2 ** (n + 2)))


def divide(mixed: int, total: int, factor: Fraction) -> int:
    b = total.bit_length()
    reciprocal = Fraction(2 ** (15 + b) // total, 2 ** (15 + b))
    return clip(round(mixed * reciprocal * factor), LARGEST)


def weights_of(query: Row, keys: Sequence[Row], unit: Fraction) -> Row:
    """Of one query; a score of 1 stands for ``unit``."""
    scores = [sum(a * b for a, b in zip(query, key, strict=True)) for key in keys]
    return [weight((max(scores) - score) * unit) for score in scores]


def mix(weights: Row, values: Sequence[Row], factors: Iterable[Fraction]) -> Row:
    """Weighted sums of each column over the sum of weights, times its factor."""
    columns = zip(*values, strict=True)
    return [
        divide(sum(w * v for w, v in zip(weights, column, strict=True)), sum(weights), factor)
        for column, factor in zip(columns, factors, strict=True)
    ]


def attend(
    query: Row, keys: Sequence[Row], values: Sequence[Row], unit: Fraction, factors: list[Fraction]
) -> Row:
    """One query over keys."""
    return mix(weights_of(query, keys, unit), values, factors)


def bits_of(rows: Iterable[Row]) -> int:
    return max(abs(x) for row in rows for x in row).bit_length()


def window_bits(d_head: int) -> int:
    """The most bits, 15 at most, of which d_head products of two numbers sum up within 2**30."""
    return max(bits for bits in range(16) if d_head * 4**bits <= 2**30)


def cut_query(query: Row, bits: int) -> tuple[Row, int]:
    shift = max(bits_of([query]) - bits, 0)
    return [cut(x, shift, 2**bits - 1) for x in query], shift


def window_attention(q: Array, k: Array, v: Array, n_head: int) -> Array:
    b, t, d = q.shape
    d_head = d // n_head
    bits = window_bits(d_head)
    result = np.empty((b, t, d), object)
    for i, head in np.ndindex(b, n_head):
        columns = slice(head * d_head, (head + 1) * d_head)
        queries, keys, values = (x[i, :, columns].tolist() for x in (q, k, v))
        key_shift = max(bits_of(keys) - bits, 0)
        keys = [[x // 2**key_shift for x in row] for row in keys]
        value_shift = max(bits_of(values) - 12, 0)
        values = [[cut(x, value_shift, 4095) for x in row] for row in values]
        for j, row in enumerate(queries):
            query, shift = cut_query(row, bits)
            # Twelve fraction bits in, sixteen out.
            factors = [two_to(value_shift + 16 - 12)] * d_head
            unit = two_to(shift + key_shift - 24)
            result[i, j, columns] = attend(query, keys, values, unit, factors)
    return result


def threshold(place: int) -> int:
    """The lowest five bits of a key's place, the last of them first."""
    return sum((place >> bit & 1) << (4 - bit) for bit in range(5))


def weight_int8(weight: int, place: int) -> int:
    return min((weight + threshold(place)) // 32, 255)


def distance_scale(scale: Fraction, d_head: int) -> Fraction:
    """The product of both scales with few bits: the largest distance times these has 31."""
    bits = 31 - (2 * 127**2 * d_head).bit_length()
    if not scale:
        return scale
    e = math.floor(math.log2(scale)) - bits - 1
    while scale >= two_to(bits + e):
        e += 1
    return nearest(scale / two_to(e)) * two_to(e)


def window_attention_int8(q: Array, k: Array, v: Array, n_head: int) -> Array:
    b, t, d = q.shape
    d_head = d // n_head
    result = np.empty((b, t, d), object)
    for i, head in np.ndindex(b, n_head):
        columns = slice(head * d_head, (head + 1) * d_head)
        flat, key_scale = quantize_row(k[i, :, columns].ravel().tolist(), 8, 12)
        keys = [flat[at : at + d_head] for at in range(0, len(flat), d_head)]
        # Each column of values is a row of its own.
        quantized = [quantize_row(column, 8, 12) for column in v[i, :, columns].T.tolist()]
        values = [list(row) for row in zip(*(column for column, _ in quantized), strict=True)]
        factors = [scale * 2**16 for _, scale in quantized]
        for j, row in enumerate(q[i, :, columns].tolist()):
            query, scale = quantize_row(row, 8, 12)
            unit = distance_scale(scale * key_scale, d_head)
            wide = weights_of(query, keys, unit)
            weights = [weight_int8(w, place) for place, w in enumerate(wide)]
            result[i, j, columns] = mix(weights, values, factors)
    return result


def store(x: int) -> int:
    """Three fraction bits fewer."""
    return clip(nearest(Fraction(x, 8)), 32767)


def cached_attention(
    q: Array, k_cache: Array, v_cache: Array, position: Array, slot: Array
) -> Array:
    b, n, d = q.shape
    n_head, group = k_cache.shape[2], b // len(slot)
    d_head = d // n_head
    result = np.empty((b, n, d), object)
    for i, j, head in np.ndindex(b, n, n_head):
        columns = slice(head * d_head, (head + 1) * d_head)
        query, shift = cut_query(q[i, j, columns].tolist(), 15)
        window, member = divmod(i, group)
        seen = int(position[window]) + j + 1
        keys, values = (
            cache[int(slot[window]), member, head, :seen].tolist() for cache in (k_cache, v_cache)
        )
        unit, factors = two_to(shift - 12 - 9), [two_to(16 - 9)] * d_head
        result[i, j, columns] = attend(query, keys, values, unit, factors)
    return result


def quantize_column(column: Row) -> tuple[Row, Fraction]:
    s = max(0, bits_of([column]) - 7)
    return [clip(nearest(Fraction(x, 2**s)), 127) for x in column], two_to(s - 12)


def cross_attention(
    q: Array, k: Array, v: Array, k_scale: Array, v_scale: Array, slot: Array
) -> tuple[Array, Array]:
    """The result, and scores of sequence, head, query and key in log2 units."""
    sequences, n, d = q.shape
    _, n_head, t, d_head = k.shape
    result = np.empty((sequences, n, d), object)
    kept = np.empty((sequences, n_head, n, t), object)
    for i, j, head in np.ndindex(sequences, n, n_head):
        audio = int(slot[i // (sequences // len(slot))])
        columns = slice(head * d_head, (head + 1) * d_head)
        # Scales are powers of two from 2**-12 on: with them a query is 2**-24 times an integer.
        wide = [
            int(x * scale * 2**12)
            for x, scale in zip(q[i, j, columns].tolist(), exact(k_scale[audio, head]), strict=True)
        ]
        query, shift = cut_query(wide, 15)
        keys, values = (x[audio, head].astype(int).tolist() for x in (k, v))
        factors = [scale * 2**16 for scale in exact(v_scale[audio, head])]
        result[i, j, columns] = attend(query, keys, values, two_to(shift - 24), factors)
        kept[i, head, j] = [
            sum(a * b for a, b in zip(query, key, strict=True)) * two_to(shift - 24) for key in keys
        ]
    return result, kept
