"""The specification ops against their formulas in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from whisper_npu.ops import activation, attention, linear

EPS = float(np.finfo(np.float32).eps)


def randn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def softmax64(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_gelu_is_the_erf_form_to_float32() -> None:
    x = np.concatenate([np.linspace(-12, 12, 40001), [0.0, -0.0, 1e-30, -1e15, 1e15]])
    x = x.astype(np.float32)
    exact = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.astype(float)])
    error = np.abs(activation.gelu(x) - exact)
    assert np.all(error <= 3 * EPS * np.maximum(1, np.abs(x)))


def test_gelu_in_place_and_over_several_blocks() -> None:
    x = randn(3, 20000)
    expected = activation.gelu(x)
    assert activation.gelu(x, x) is x
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(activation.gelu(randn(3, 20000)[1]), expected[1])


def test_linear() -> None:
    x, w, b = randn(5, 7), randn(3, 7, seed=1), randn(3, seed=2)
    exact = x.astype(float) @ w.T.astype(float) + b
    magnitude = np.abs(x).astype(float) @ np.abs(w.T) + np.abs(b)
    assert np.all(np.abs(linear.linear(x, w, b) - exact) <= 4 * EPS * magnitude)


@pytest.mark.parametrize(("t", "stride"), [(12, 1), (12, 2), (2, 1), (2, 2)])
def test_conv1d(t: int, stride: int) -> None:
    x, w, b = randn(t, 4), randn(5, 4, 3, seed=1), randn(5, seed=2)
    padded = np.zeros((t + 2, 4))
    padded[1:-1] = x
    exact = np.array(
        [np.einsum("ncj,jc->n", w.astype(float), padded[i : i + 3]) for i in range(0, t, stride)]
    )
    got = linear.conv1d(x, linear.conv_matrix(w), b, stride)
    np.testing.assert_allclose(got, exact + b, atol=20 * EPS)


def test_layer_norm() -> None:
    x = 3 * randn(6, 40) + 5
    gain, bias = randn(40, seed=1), randn(40, seed=2)
    wide = x.astype(float)
    exact = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(linear.layer_norm(x, gain, bias), exact * gain + bias, atol=40 * EPS)


def test_embed_starts_at_the_position_of_the_window() -> None:
    table, positions = randn(10, 4), randn(8, 4, seed=1)
    tokens = np.array([[3, 9], [0, 3], [1, 1], [7, 2]])
    got = linear.embed(tokens, table, positions, np.array([5, 0]))
    np.testing.assert_array_equal(got[0, 1], table[9] + positions[6])
    np.testing.assert_array_equal(got[1, 0], table[0] + positions[5])
    np.testing.assert_array_equal(got[2, 0], table[1] + positions[0])
    np.testing.assert_array_equal(got[3, 1], table[2] + positions[1])


def exact_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One head in float64."""
    scores = q.astype(float) @ k.T.astype(float) / math.sqrt(q.shape[-1])
    return softmax64(np.where(mask, -np.inf, scores)) @ v.astype(float)


@pytest.mark.parametrize("t", [7, attention.QUERY_BLOCK, attention.QUERY_BLOCK + 3])
def test_attention(t: int) -> None:
    q, k, v = (randn(2, t, 12, seed=i) for i in range(3))
    got = attention.attention(q, k, v, 3)
    for b in range(2):
        for h in range(3):
            head = slice(4 * h, 4 * h + 4)
            exact = exact_attention(
                q[b, :, head], k[b, :, head], v[b, :, head], np.zeros((t, t), bool)
            )
            np.testing.assert_allclose(got[b, :, head], exact, atol=20 * EPS)


def test_cached_attention_is_causal_attention_token_by_token() -> None:
    t, n_head, d = 9, 2, 8
    q, k, v = (randn(1, t, d, seed=i) for i in range(3))
    caches = [np.full((1, 1, n_head, 16, 4), np.nan, np.float32) for _ in range(2)]
    future = np.triu(np.ones((t, t), bool), 1)
    position = 0
    for n in (4, 1, 3, 1):
        new = slice(position, position + n)
        windows = np.array([position]), np.array([0])
        attention.store_cache(k[:, new], caches[0], *windows)
        attention.store_cache(v[:, new], caches[1], *windows)
        got = attention.cached_attention(q[:, new], caches[0], caches[1], *windows)
        for h in range(n_head):
            head = slice(4 * h, 4 * h + 4)
            exact = exact_attention(q[0, :, head], k[0, :, head], v[0, :, head], future)[new]
            np.testing.assert_allclose(got[0, :, head], exact, atol=20 * EPS)
        position += n


def test_each_window_has_a_cache_and_a_position_of_its_own() -> None:
    """Windows of two sequences in slots that are not in order; the second begins later."""
    t, n_head, group, slots = 12, 2, 2, (3, 1)
    q, k, v = (randn(2 * group, t, 8, seed=i) for i in range(3))
    caches = [np.full((4, 3, n_head, 16, 4), np.nan, np.float32) for _ in range(2)]
    future = np.triu(np.ones((t, t), bool), 1)
    positions = [0, 0]
    # Tokens, and the windows that get them.
    for n, windows in ((4, [0]), (1, [0, 1]), (3, [1, 0]), (2, [1]), (2, [0, 1])):
        sequences = [group * window + member for window in windows for member in range(group)]
        first = [positions[window] for window in windows]
        where = np.array(first), np.array([slots[window] for window in windows])
        starts = np.repeat(first, group).tolist()
        new = [slice(start, start + n) for start in starts]
        for x, cache in ((k, caches[0]), (v, caches[1])):
            rows = np.array([x[i, part] for i, part in zip(sequences, new, strict=True)])
            attention.store_cache(rows, cache, *where)
        rows = np.array([q[i, part] for i, part in zip(sequences, new, strict=True)])
        got = attention.cached_attention(rows, *caches, *where)
        for i, part, result in zip(sequences, new, got, strict=True):
            for head in (slice(0, 4), slice(4, 8)):
                exact = exact_attention(q[i, :, head], k[i, :, head], v[i, :, head], future)[part]
                np.testing.assert_allclose(result[:, head], exact, atol=20 * EPS)
        for window in windows:
            positions[window] += n
    assert positions == [10, 8]
    written = np.zeros(caches[0].shape, bool)
    for slot, count in zip(slots, positions, strict=True):
        written[slot, :group, :, :count] = True
    for cache in caches:
        np.testing.assert_array_equal(np.isfinite(cache), written)


def test_cross_attention_shares_the_audio_of_a_group() -> None:
    q = randn(6, 2, 8)  # two windows, three sequences each
    k, v = randn(4, 2, 11, 4, seed=1), randn(4, 2, 11, 4, seed=2)
    kept = np.empty((1, 2, 11), np.float32)
    for slots in ([0, 1], [3, 1]):
        got = attention.cross_attention(q, k, v, np.array(slots))
        attention.cross_attention(q[:1], k, v, np.array(slots[:1]), heads=(1,), kept=kept)
        for sequence in range(6):
            for h in range(2):
                head = slice(4 * h, 4 * h + 4)
                slot = slots[sequence // 3]
                exact = exact_attention(
                    q[sequence, :, head], k[slot, h], v[slot, h], np.zeros((2, 11), bool)
                )
                np.testing.assert_allclose(got[sequence, :, head], exact, atol=20 * EPS)
        scores = q[0, :, 4:] @ k[slots[0], 1].T / 2
        np.testing.assert_allclose(kept[0], scores, atol=20 * EPS)
