"""From an op with its arrays to a call of a kernel: a structure of pointers, made once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whisper_npu.backends.cpu.library import (
    Add,
    Attention,
    EmbedInt8,
    Gelu,
    Im2Col,
    LayerNorm,
    Library,
    LinearInt8,
    OverCache,
    QuantizeHeads,
    QuantizeRows,
    Scratch,
    SplitHeads,
    StoreCache,
    TopLogprobs,
)
from whisper_npu.backends.numpy.specification import Array, Bound


@dataclass(frozen=True)
class Place:
    """What a call is bound to besides its arrays."""

    library: Library
    scratch: Scratch


# The structure for an op, or None if its arrays do not lie as the kernel wants them.
Binder = Callable[[Place, Bound], "ctypes.Structure | None"]


def _lies(array: Array, dtype: type[np.generic]) -> bool:
    return array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned


def _address(array: Array | None) -> int | None:
    return None if array is None else array.ctypes.data


def _all_lie(dtypes: Mapping[type[np.generic], tuple[Any, ...]]) -> bool:
    return all(_lies(array, dtype) for dtype, arrays in dtypes.items() for array in arrays)


def _quantize_rows(place: Place, b: Bound) -> ctypes.Structure | None:
    (x,), (values, scale) = b.inputs, b.outputs
    if not _all_lie({np.float32: (x, scale), np.int8: (values,)}):
        return None
    return QuantizeRows(_address(x), _address(values), _address(scale), scale.size, x.shape[-1])


def _linear_int8(place: Place, b: Bound) -> ctypes.Structure | None:
    x, x_scale, w, w_scale, *rest = b.inputs
    (out,) = b.outputs
    if not _all_lie({np.float32: (x_scale, w_scale, *rest, out), np.int8: (x, w)}):
        return None
    n, k = w.shape
    place.scratch.reserve(place.library.linear_scratch(k))
    return LinearInt8(
        *map(_address, (x, x_scale, w, w_scale, rest[0] if rest else None, out)),
        x_scale.size, k, n, place.scratch.address,
    )  # fmt: skip


def _embed_int8(place: Place, b: Bound) -> ctypes.Structure | None:
    tokens, table, scale, positions, position = b.inputs
    (out,) = b.outputs
    floats, integers = (scale, positions, out), (tokens, position)
    if not _all_lie({np.float32: floats, np.int64: integers, np.int8: (table,)}):
        return None
    arrays = (tokens, table, scale, positions, position, out)
    return EmbedInt8(*map(_address, arrays), tokens.size, tokens.shape[1], *positions.shape[::-1])


def _store_cache(place: Place, b: Bound) -> ctypes.Structure | None:
    x, cache, position = b.inputs
    lie = _all_lie({np.float32: (x, cache[0]), np.int64: (position,)})
    if not lie or cache.strides[0] % cache.itemsize:
        return None
    batch, n, _ = x.shape
    _, n_head, t, d_head = cache.shape
    return StoreCache(
        *map(_address, (x, cache, position)), batch, n, t, n_head, d_head,
        cache.strides[0] // cache.itemsize,
    )  # fmt: skip


def _split_heads(place: Place, b: Bound) -> ctypes.Structure | None:
    (x,), (out,) = b.inputs, b.outputs
    if not _all_lie({np.float32: (x, out)}):
        return None
    batch, n_head, t, d_head = out.shape
    return SplitHeads(_address(x), _address(out), batch, t, n_head, d_head)


def _quantize_heads(place: Place, b: Bound) -> ctypes.Structure | None:
    (x,), (values, scale) = b.inputs, b.outputs
    if not _all_lie({np.float32: (x, scale), np.int8: (values,)}):
        return None
    batch, n_head, t, d_head = values.shape
    return QuantizeHeads(*map(_address, (x, values, scale)), batch, t, n_head, d_head)


def _im2col(place: Place, b: Bound) -> ctypes.Structure | None:
    (x,), (out,) = b.inputs, b.outputs
    if not _all_lie({np.float32: (x, out)}):
        return None
    step = b.op.attr("stride")
    assert isinstance(step, int)
    return Im2Col(_address(x), _address(out), *x.shape, step)


def _gelu(place: Place, b: Bound) -> ctypes.Structure | None:
    (x,), (out,) = b.inputs, b.outputs
    if not _all_lie({np.float32: (x, out)}):
        return None
    return Gelu(_address(x), _address(out), x.size)


def _add(place: Place, b: Bound) -> ctypes.Structure | None:
    (x, y), (out,) = b.inputs, b.outputs
    if not _all_lie({np.float32: (x, y, out)}):
        return None
    return Add(*map(_address, (x, y, out)), x.size, y.size)


def _layer_norm(place: Place, b: Bound) -> ctypes.Structure | None:
    x, gain, bias = b.inputs
    (out,) = b.outputs
    if not _all_lie({np.float32: (x, gain, bias, out)}):
        return None
    return LayerNorm(*map(_address, (x, gain, bias, out)), x.size // gain.size, gain.size)


def _attention(place: Place, b: Bound) -> ctypes.Structure | None:
    q, k, v = b.inputs
    (out,) = b.outputs
    if not _all_lie({np.float32: (q, k, v, out)}):
        return None
    n_head = b.op.attr("n_head")
    assert isinstance(n_head, int)
    d_head = q.shape[2] // n_head
    args = Attention(
        *map(_address, (q, k, v, out)), *q.shape[:2], n_head, d_head, d_head**-0.5,
        place.scratch.address,
    )  # fmt: skip
    place.scratch.reserve(place.library.attention_scratch(args, place.scratch.threads))
    return args


def _cached_attention(place: Place, b: Bound) -> ctypes.Structure | None:
    return _over_cache(place, b, np.float32, position=b.inputs[3])


def _cross_attention(place: Place, b: Bound) -> ctypes.Structure | None:
    # Scores of alignment heads are kept for the words of a window, once: NumPy does that.
    return None if b.op.attr("heads") else _over_cache(place, b, np.float32)


def _cross_attention_int8(place: Place, b: Bound) -> ctypes.Structure | None:
    k, v, *scales = b.inputs[1:]
    if b.op.attr("heads") or not _all_lie({np.int8: (k, v), np.float32: tuple(scales)}):
        return None
    return _over_cache(place, b, np.int8, scales)


def _over_cache(
    place: Place,
    b: Bound,
    dtype: type[np.generic],
    scales: Sequence[Array | None] = (None, None),
    position: Array | None = None,
) -> ctypes.Structure | None:
    q, k, v, *_ = b.inputs
    (out,) = b.outputs
    audios, n_head, t, d_head = k.shape
    # The first sequences of some that lie further apart are caches too.
    lie = k.strides == v.strides and all(_lies(cache[0], dtype) for cache in (k, v))
    if not lie or not _all_lie({np.float32: (q, out)}):
        return None
    if position is not None and not _lies(position, np.int64):
        return None
    sequences, n, _ = q.shape
    args = OverCache(
        *map(_address, (q, k, v, *scales, out, position)), sequences, n, sequences // audios, t,
        n_head, d_head, k.strides[0] // k.itemsize, d_head**-0.5, place.scratch.address,
    )  # fmt: skip
    place.scratch.reserve(place.library.over_cache_scratch(args))
    return args


def _top_logprobs(place: Place, b: Bound) -> ctypes.Structure | None:
    (x,), (tokens, logprobs) = b.inputs, b.outputs
    if not _all_lie({np.float32: (x, logprobs), np.int64: (tokens,)}):
        return None
    args = TopLogprobs(
        *map(_address, (x, tokens, logprobs)), *x.shape, tokens.shape[1], place.scratch.address
    )
    place.scratch.reserve(-(-place.library.top_logprobs_scratch(args) // place.scratch.threads))
    return args


# By kernel: most are named after the kind of op that they are for.
BINDERS: Mapping[str, Binder] = {
    "quantize_rows": _quantize_rows,
    "linear_int8": _linear_int8,
    "embed_int8": _embed_int8,
    "store_cache": _store_cache,
    "split_heads": _split_heads,
    "quantize_heads": _quantize_heads,
    "im2col": _im2col,
    "gelu": _gelu,
    "add": _add,
    "layer_norm": _layer_norm,
    "attention": _attention,
    "attention_int16": _attention,
    "cached_attention": _cached_attention,
    "cross_attention": _cross_attention,
    "cross_attention_int8": _cross_attention_int8,
    "top_logprobs": _top_logprobs,
}
