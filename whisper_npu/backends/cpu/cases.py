"""Inputs that verification gives to the CPU kernels, and the errors that it allows.

Sizes are those of Whisper and those just beside whole vectors, panels and blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from whisper_npu.backends.cpu import attention_cases
from whisper_npu.backends.cpu.case import EPSILON, Case, Random, floats, integers
from whisper_npu.backends.numpy.specification import Array
from whisper_npu.model.graph import Op
from whisper_npu.ops import quant
from whisper_npu.ops.arrays import F32


def _quantize_rows(rng: Random) -> Iterator[Case]:
    op = Op("values", "quantize_rows", ("x",), ("values", "scale"))
    for shape in ((1, 384), (3, 1), (5, 15), (4, 16), (7, 240), (2, 9, 65), (40, 1280), (500, 33)):
        for name, x in _rows_to_round(rng, shape):
            yield Case(f"{name} {shape}", op, (x,), _quantized_outputs(shape))


def _rows_to_round(rng: Random, shape: tuple[int, ...]) -> Iterator[tuple[str, F32]]:
    yield from floats(rng, shape)
    x = rng.standard_normal(shape, np.float32)
    x[..., 0, :] = 0
    # Halves: ties are rounded to even.
    x[..., -1, :] = np.arange(shape[-1]) % 127 + np.float32(0.5)
    x[..., -1, 0] = 127
    yield "ties", x
    for value in (np.nan, np.inf, -np.inf, 1e-30, 1e-42, 3e38):
        x = rng.standard_normal(shape, np.float32)
        x[..., -1] = value
        yield str(value), x


def _quantized_outputs(shape: tuple[int, ...]) -> tuple[Array, ...]:
    return np.empty(shape, np.int8), np.empty(shape[:-1], np.float32)


# (m, k, n)
_PRODUCTS = (
    (1, 1, 1), (1, 384, 384), (1, 1536, 50), (1, 5120, 6), (2, 240, 33), (3, 65, 7), (4, 63, 64),
    (5, 64, 130), (6, 128, 5), (7, 7, 19), (8, 384, 65), (12, 127, 64), (13, 64, 64), (14, 66, 65),
    (16, 384, 384), (33, 129, 63), (37, 240, 200), (64, 1536, 66), (97, 192, 128), (520, 66, 70),
    (1, 384, 7001), (4099, 70, 66),
)  # fmt: skip


def _linear_int8(rng: Random) -> Iterator[Case]:
    op = Op("out", "linear_int8", ("x", "x_scale", "w", "w_scale", "bias"), ("out",))
    for m, k, n in _PRODUCTS:
        pairs = zip(integers(rng, (m, k)), integers(rng, (n, k)), strict=True)
        for i, ((name, x), (_, w)) in enumerate(pairs):
            scales = [rng.random(size, np.float32) for size in (m, n)]
            bias = [rng.standard_normal(n, np.float32)] if i % 2 == 0 else []
            yield Case(
                f"{name} {m}x{k}x{n}", op, (x, scales[0], w, scales[1], *bias),
                (np.empty((m, n), np.float32),),
                np.empty(quant.scratch_size(m, k, n), np.float32),
            )  # fmt: skip


def _embed_int8(rng: Random) -> Iterator[Case]:
    op = Op("out", "embed_int8", ("tokens", "table", "scale", "positions", "position"), ("out",))
    for b, n, d, position in ((1, 1, 1, 0), (3, 4, 33, 5), (2, 1, 384, 447), (1, 40, 512, 0)):
        for name, table in integers(rng, (70, d)):
            tokens = rng.integers(0, 70, (b, n))
            tokens[0, 0] = 69
            yield Case(
                f"{name} {b}x{n} {d} at {position}", op,
                (tokens, table, rng.random(70, np.float32),
                 rng.standard_normal((448, d), np.float32), np.array(position)),
                (np.empty((b, n, d), np.float32),),
            )  # fmt: skip


def _store_cache(rng: Random) -> Iterator[Case]:
    op = Op("cache", "store_cache", ("x", "cache", "position"), ("cache",))
    for n_head, d_head, n, position in ((1, 1, 1, 0), (2, 33, 3, 5), (6, 64, 1, 15), (3, 4, 16, 0)):
        x = rng.standard_normal((2, n, n_head * d_head), np.float32)
        cache = rng.standard_normal((2, 3, n_head, 16, d_head), np.float32)
        for each in (cache[0], cache[:, 1]):
            own = each[:2].copy() if each.flags.c_contiguous else each
            yield Case(f"{x.shape} at {position}", op, (x, own, np.array(position)), (own,))


def _im2col(rng: Random) -> Iterator[Case]:
    for t, c, stride in ((2, 1, 1), (2, 1, 2), (30, 7, 1), (30, 80, 2), (64, 33, 2), (50, 384, 1)):
        op = Op("out", "im2col", ("x",), ("out",), (("stride", stride),))
        x = rng.standard_normal((2, t, c), np.float32)
        yield Case(f"{x.shape} {stride}", op, (x,), (np.empty((2, t // stride, 3 * c), "f4"),))


# Float kernels sum in another order than NumPy, and round less: within these many roundings of what
# is summed up, or of the largest number on the way.
def _gelu(rng: Random) -> Iterator[Case]:
    op = Op("out", "gelu", ("x",), ("out",))
    for shape in ((1,), (3, 5), (16,), (2, 63), (7, 1536), (40, 257)):
        for name, x in floats(rng, shape):
            yield Case(
                f"{name} {shape}", op, (x,), (np.empty_like(x),), allowed=partial(_gelu_bound, x)
            )


def _gelu_bound(x: F32) -> Array:
    """The formula of the specification is itself 5e-7 off at most, near 5."""
    bound: Array = 8 * EPSILON * (1 + np.abs(x))
    return bound


def _add(rng: Random) -> Iterator[Case]:
    op = Op("out", "add", ("x", "y"), ("out",))
    for shape, rest in (((1, 3), 1), ((2, 5, 33), 1), ((3, 64, 48), 0), ((20, 700), 0)):
        for name, x in floats(rng, shape):
            y = rng.standard_normal(shape[1:] if rest else shape, np.float32)
            yield Case(f"{name} {shape}", op, (x, y), (np.empty_like(x),))


def _layer_norm(rng: Random) -> Iterator[Case]:
    op = Op("out", "layer_norm", ("x", "gain", "bias"), ("out",))
    for shape in ((1, 1), (2, 3, 5), (1, 384), (3, 63), (2, 65), (7, 512), (50, 1280)):
        for name, x in floats(rng, shape):
            for shift in (0, 3):
                gain, bias = rng.standard_normal((2, shape[-1]), np.float32)
                moved = x + np.float32(shift)
                yield Case(
                    f"{name} + {shift} {shape}", op, (moved, gain, bias), (np.empty_like(x),),
                    allowed=partial(_layer_norm_bound, moved, gain, bias),
                )  # fmt: skip


def _layer_norm_bound(x: F32, gain: F32, bias: F32) -> Array:
    """Roundings of the largest input, in units of the standard deviation, times the gain."""
    wide = x.astype(np.float64)
    deviation = np.sqrt(wide.var(axis=-1, keepdims=True) + 1e-5)
    largest = np.abs(wide).max(axis=-1, keepdims=True)
    # NumPy adds up the squares one after the other.
    roundings = 16 + 2 * x.shape[-1] ** 0.5
    bound: Array = roundings * EPSILON * (largest / deviation * np.abs(gain) + np.abs(bias))
    return bound


# (b, t, n_head, d_head)
_HEADS = ((1, 1, 1, 1), (2, 3, 2, 33), (1, 100, 6, 64), (3, 7, 3, 20))


def _split_heads(rng: Random) -> Iterator[Case]:
    for b, t, n_head, d_head in _HEADS:
        op = Op("out", "split_heads", ("x",), ("out",), (("n_head", n_head),))
        for name, x in floats(rng, (b, t, n_head * d_head)):
            out = np.empty((b, n_head, t, d_head), np.float32)
            yield Case(f"{name} {x.shape}, {n_head} heads", op, (x,), (out,))


def _quantize_heads(rng: Random) -> Iterator[Case]:
    for b, t, n_head, d_head in _HEADS:
        op = Op("values", "quantize_heads", ("x",), ("values", "scale"), (("n_head", n_head),))
        for name, x in _rows_to_round(rng, (b, t, n_head * d_head)):
            outputs = _quantized_outputs((b, n_head, t, d_head))
            yield Case(f"{name} {x.shape}, {n_head} heads", op, (x,), outputs)


def _top_logprobs(rng: Random) -> Iterator[Case]:
    for m, n, k in (
        (1, 1, 1), (3, 7, 7), (2, 513, 6), (5, 3000, 1), (40, 700, 6), (2, 51866, 1), (3, 51865, 6),
    ):  # fmt: skip
        op = Op("tokens", "top_logprobs", ("x",), ("tokens", "logprobs"), (("k", k),))
        for name, x in _logits(rng, (m, n)):
            yield Case(
                f"{name} {m}x{n}, {k}", op, (x,),
                (np.empty((m, k), np.int64), np.empty((m, k), np.float32)),
                allowed=partial(_logprobs_bound, x, k),
            )  # fmt: skip


def _logits(rng: Random, shape: tuple[int, int]) -> Iterator[tuple[str, F32]]:
    yield from floats(rng, shape)
    some = rng.standard_normal(shape, np.float32) * np.float32(6)
    yield "of a model", some
    yield "equal ones", np.round(some)
    yield "all equal", np.full(shape, -3, np.float32)
    forbidden = np.where(rng.random(shape) < 0.5, some, -np.inf).astype(np.float32)
    forbidden[:, shape[1] // 3 : shape[1] // 2] = -np.inf
    yield "half forbidden", forbidden
    few = np.full(shape, -np.inf, np.float32)
    few[:, -1] = some[:, 0]
    few[:, shape[1] // 2] = some[:, -1]
    yield "few allowed", few
    yield "none allowed", np.full(shape, -np.inf, np.float32)


def _logprobs_bound(x: F32, k: int) -> Array:
    """Roundings of differences from the largest, of their exponentials, and of the sum."""
    wide = np.sort(x.astype(np.float64), axis=1)[:, ::-1]
    below = np.where(np.isfinite(wide), wide - wide[:, :1], -1e5)
    weights = np.exp(below)
    weights /= weights.sum(axis=1, keepdims=True)
    of_sum = 64 - 4 * (weights * below).sum(axis=1, keepdims=True)
    bound: Array = EPSILON * (of_sum - 4 * (below[:, :k] + np.log(weights[:, :1])))
    return bound


CASES: Mapping[str, Callable[[Random], Iterator[Case]]] = {
    "quantize_rows": _quantize_rows,
    "linear_int8": _linear_int8,
    "embed_int8": _embed_int8,
    "store_cache": _store_cache,
    "im2col": _im2col,
    "gelu": _gelu,
    "add": _add,
    "layer_norm": _layer_norm,
    "attention": partial(attention_cases.attention, bound=attention_cases.attention_bound),
    # An eighth is what the bound predicts.
    "attention_int16": partial(
        attention_cases.attention,
        bound=attention_cases.int16_bound,
        kernel="attention_int16",
        rms_share=0.155,
    ),
    "split_heads": _split_heads,
    "quantize_heads": _quantize_heads,
    "cached_attention": attention_cases.cached_attention,
    "cross_attention": attention_cases.cross_attention,
    "cross_attention_int8": attention_cases.cross_attention_int8,
    "top_logprobs": _top_logprobs,
}
