"""Bits do not depend on what is done together with what, nor in which order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.unit.ops_int.inputs import numbers, saturated, scales
from whisper_npu.ops import attention_int, product_int8, rows
from whisper_npu.ops.arrays import I32


@pytest.mark.parametrize("op", [rows.quantize_int32, rows.rms_norm])
@pytest.mark.parametrize("bits", [8, 16])
def test_rows_alone_and_together(op: Callable, bits: int) -> None:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    x = numbers(rng, (4, 5, 300))
    values, scale = op(x, bits)
    for index in np.ndindex(4, 5):
        alone = op(x[index], bits)
        assert np.array_equal(alone[0], values[index])
        assert alone[1] == scale[index]
    order = rng.permutation(300)
    permuted = op(x[..., order], bits)
    assert np.array_equal(permuted[0], values[..., order])
    assert np.array_equal(permuted[1], scale)


@pytest.mark.parametrize("kind", ["i1", "i2"])
def test_products_in_any_order(kind: str) -> None:
    rng = np.random.default_rng(0)
    m, k, n = 13, 2500, 17
    largest = rows.limit(8 * np.dtype(kind).itemsize, k)
    x = rng.integers(-largest, largest + 1, (m, k)).astype(kind)
    w = rng.integers(-127, 128, (n, k)).astype(np.float32)
    x_scale, w_scale = scales(rng, m, 8), scales(rng, n, 14)
    bias = numbers(rng, (n,))
    whole = product_int8.product_int8(x, x_scale, w, w_scale, bias)
    for rows_at_once in (1, 5):
        parts = [
            product_int8.product_int8(x[part], x_scale[part], w, w_scale, bias)
            for part in (slice(i, i + rows_at_once) for i in range(0, m, rows_at_once))
        ]
        assert np.array_equal(np.concatenate(parts), whole)
    for part in (slice(0, 1), slice(1, 17)):
        got = product_int8.product_int8(x, x_scale, w[part], w_scale[part], bias[part])
        assert np.array_equal(got, whole[:, part])
    order = rng.permutation(k)
    got = product_int8.product_int8(x[:, order], x_scale, w[:, order], w_scale, bias)
    assert np.array_equal(got, whole)


def test_gelu_in_blocks() -> None:
    x = numbers(np.random.default_rng(0), (7, 5000))
    whole = product_int8.gelu_int32(x)
    for row, result in zip(x, whole, strict=True):
        assert np.array_equal(product_int8.gelu_int32(row), result)


def heads_of(rng: np.random.Generator, b: int, t: int, d: int) -> list[I32]:
    """Queries, keys and values of which every window has a size of its own."""
    size = np.exp2(rng.uniform(8, 24, (3, b, 1, 1)))
    return list(saturated(size * rng.standard_normal((3, b, t, d))))


@pytest.mark.parametrize("op", [attention_int.attention_int32, attention_int.attention_int8])
def test_windows_alone_and_together(op: Callable, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    q, k, v = heads_of(rng, 3, 140, 24)
    whole = op(q, k, v, 3)
    for i in range(3):
        alone = op(q[i : i + 1], k[i : i + 1], v[i : i + 1], 3)
        assert np.array_equal(alone[0], whole[i])
    for head in range(3):
        part = slice(8 * head, 8 * head + 8)
        alone = op(q[..., part], k[..., part], v[..., part], 1)
        assert np.array_equal(alone, whole[..., part])
    order = rng.permutation(140)
    assert np.array_equal(op(q[:, order], k, v, 3), whole[:, order])
    for count in (1, 7, 1000):
        monkeypatch.setattr(attention_int, "_ROWS", count)
        assert np.array_equal(op(q, k, v, 3), whole)


def test_keys_of_a_window_in_any_order() -> None:
    """Thresholds of 8 bits depend on the place: keys may change it by multiples of 32 only."""
    rng = np.random.default_rng(0)
    q, k, v = heads_of(rng, 3, 160, 24)
    order = rng.permutation(160)
    whole = attention_int.attention_int32(q, k, v, 3)
    assert np.array_equal(attention_int.attention_int32(q, k[:, order], v[:, order], 3), whole)
    whole = attention_int.attention_int8(q, k, v, 3)
    assert not np.array_equal(attention_int.attention_int8(q, k[:, order], v[:, order], 3), whole)
    order = rng.permuted(np.arange(160).reshape(5, 32), axis=0).ravel()
    assert np.array_equal(attention_int.attention_int8(q, k[:, order], v[:, order], 3), whole)


def test_tokens_alone_and_together() -> None:
    rng = np.random.default_rng(0)
    q, k, v = heads_of(rng, 3, 20, 24)
    caches = [np.zeros((3, 1, 4, 30, 6), np.int16) for _ in range(2)]
    slots = np.arange(3)
    one_by_one = [cache.copy() for cache in caches]
    for x, cache, other in zip((k, v), caches, one_by_one, strict=True):
        attention_int.store_int16(x, cache, np.zeros(3, int), slots)
        for i in range(20):
            attention_int.store_int16(x[:, i : i + 1], other, np.full(3, i), slots)
        assert np.array_equal(cache, other)
    whole = attention_int.cached_attention_int16(q, *caches, np.zeros(3, int), slots)
    for i in range(20):
        one = q[:, i : i + 1]
        alone = attention_int.cached_attention_int16(one, *caches, np.full(3, i), slots)
        assert np.array_equal(alone, whole[:, i : i + 1])
    rest = attention_int.cached_attention_int16(q[:, 7:], *caches, np.full(3, 7), slots)
    assert np.array_equal(rest, whole[:, 7:])
    for i in range(3):
        part, at = slice(i, i + 1), (np.array([0]), np.array([i]))
        alone = attention_int.cached_attention_int16(q[part], *caches, *at)
        assert np.array_equal(alone, whole[part])
    # Windows at other positions, in another order.
    at = np.array([4, 0, 13]), np.array([2, 0, 1])
    mixed = np.array([q[slot, first : first + 5] for first, slot in zip(*at, strict=True)])
    together = attention_int.cached_attention_int16(mixed, *caches, *at)
    for result, first, slot in zip(together, *at, strict=True):
        assert np.array_equal(result, whole[slot, first : first + 5])
    # Or as the members of one slot.
    members = [cache.transpose(1, 0, 2, 3, 4) for cache in caches]
    one = np.array([0])
    assert np.array_equal(attention_int.cached_attention_int16(q, *members, one, one), whole)
    # The last token sees all keys: their order does not matter.
    order = np.append(rng.permutation(20), np.arange(20, 30))
    permuted = [cache[..., order, :] for cache in caches]
    last = attention_int.cached_attention_int16(q[:, 19:], *permuted, np.full(3, 19), slots)
    assert np.array_equal(last, whole[:, 19:])


def test_sequences_of_an_audio_alone_and_together() -> None:
    rng = np.random.default_rng(0)
    (q, _, _), (_, k, v) = heads_of(rng, 6, 4, 24), heads_of(rng, 2, 90, 24)
    cached = []
    for x in (k, v):
        values, scale = np.empty((2, 4, 90, 6), np.int8), np.empty((2, 4, 6), np.float32)
        attention_int.quantize_columns(x, values, scale)
        for i in range(2):
            alone = np.empty((1, 4, 90, 6), np.int8), np.empty((1, 4, 6), np.float32)
            attention_int.quantize_columns(x[i : i + 1], *alone)
            assert np.array_equal(alone[0][0], values[i])
            assert np.array_equal(alone[1][0], scale[i])
        cached.append((values, scale))
    (k8, k_scale), (v8, v_scale) = cached
    scales, slots = (k_scale, v_scale), np.arange(2)
    whole = attention_int.cross_attention_int32(q, k8, v8, *scales, slots)
    for i, token in np.ndindex(6, 4):
        alone = attention_int.cross_attention_int32(
            q[i : i + 1, token : token + 1], k8, v8, *scales, slots[i // 3 : i // 3 + 1]
        )
        assert np.array_equal(alone[0, 0], whole[i, token])
    other = attention_int.cross_attention_int32(
        np.concatenate([q[3:], q[:3]]), k8, v8, *scales, slots[::-1]
    )
    assert np.array_equal(other, np.concatenate([whole[3:], whole[:3]]))
    order = rng.permutation(90)
    permuted = attention_int.cross_attention_int32(
        q, k8[:, :, order], v8[:, :, order], *scales, slots
    )
    assert np.array_equal(permuted, whole)
    wide = [x.astype(np.float32) for x in (k8, v8)]
    assert np.array_equal(attention_int.cross_attention_int32(q, *wide, *scales, slots), whole)
