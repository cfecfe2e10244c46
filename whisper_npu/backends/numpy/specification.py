"""Binding ops to the NumPy functions that specify them.

A binder gets an op and its arrays once and returns a function of no arguments that computes the
op in place. Nothing is looked up or allocated in large when that function runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.model.graph import Graph, Op
from whisper_npu.ops import activation, attention, choice, linear, mel, quant

Step = Callable[[], Any]
Array = NDArray[Any]


@dataclass(frozen=True)
class Bound:
    """An op with its arrays; ``scratch`` is there for the kinds listed in ``SCRATCH``."""

    op: Op
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    scratch: Array | None


def _stft_power(b: Bound) -> Step:
    return lambda: mel.stft_power(b.inputs[0], b.outputs[0])


def _mel_log10(b: Bound) -> Step:
    power, filters = b.inputs
    return lambda: mel.mel_log10(power, filters, b.outputs[0])


def _transpose(b: Bound) -> Step:
    source = b.inputs[0].transpose(0, 2, 1)
    return lambda: np.copyto(b.outputs[0], source)


def _conv1d(b: Bound) -> Step:
    x, w, bias = b.inputs
    (out,) = b.outputs
    stride = b.op.attr("stride")
    assert isinstance(stride, int)

    def step() -> None:
        for source, target in zip(x, out, strict=True):
            linear.conv1d(source, w, bias, stride, target, b.scratch)

    return step


def _gelu(b: Bound) -> Step:
    return lambda: activation.gelu(b.inputs[0], b.outputs[0])


def _add(b: Bound) -> Step:
    x, y = b.inputs
    return lambda: np.add(x, y, out=b.outputs[0])


def _layer_norm(b: Bound) -> Step:
    x, gain, bias = b.inputs
    return lambda: linear.layer_norm(x, gain, bias, b.outputs[0])


def _linear(b: Bound) -> Step:
    x, w, *rest = b.inputs
    bias = rest[0] if rest else None
    # Two dimensions, so that a batch is one product and not one for each of its members.
    x, out = x.reshape(-1, x.shape[-1]), b.outputs[0].reshape(-1, w.shape[0])
    return lambda: linear.linear(x, w, bias, out)


def _im2col(b: Bound) -> Step:
    stride = b.op.attr("stride")
    assert isinstance(stride, int)

    def step() -> None:
        for source, target in zip(b.inputs[0], b.outputs[0], strict=True):
            linear.im2col(source, stride, target)

    return step


def _quantize_rows(b: Bound) -> Step:
    return lambda: quant.quantize_rows(b.inputs[0], *b.outputs)


def _linear_int8(b: Bound) -> Step:
    x, x_scale, w, w_scale, *rest = b.inputs
    bias = rest[0] if rest else None
    x, out = x.reshape(-1, x.shape[-1]), b.outputs[0].reshape(-1, w.shape[0])
    x_scale = x_scale.reshape(-1)
    return lambda: quant.linear_int8(x, x_scale, w, w_scale, bias, out, b.scratch)


def _attention(b: Bound) -> Step:
    n_head = b.op.attr("n_head")
    assert isinstance(n_head, int)
    q, k, v = b.inputs
    return lambda: attention.attention(q, k, v, n_head, b.outputs[0], b.scratch)


def _split_heads(b: Bound) -> Step:
    n_head = b.op.attr("n_head")
    assert isinstance(n_head, int)
    source = attention.split_heads(b.inputs[0], n_head)
    return lambda: np.copyto(b.outputs[0], source)


def _quantize_heads(b: Bound) -> Step:
    return lambda: attention.quantize_heads(b.inputs[0], *b.outputs)


def _embed(b: Bound) -> Step:
    tokens, table, positions, position = b.inputs
    return lambda: linear.embed(tokens, table, positions, int(position), b.outputs[0])


def _embed_int8(b: Bound) -> Step:
    tokens, table, scale, positions, position = b.inputs
    return lambda: quant.embed_int8(tokens, table, scale, positions, int(position), b.outputs[0])


def _store_cache(b: Bound) -> Step:
    x, cache, position = b.inputs
    return lambda: attention.store_cache(x, cache, int(position))


def _cached_attention(b: Bound) -> Step:
    q, k, v, position = b.inputs
    return lambda: attention.cached_attention(q, k, v, int(position), b.outputs[0], b.scratch)


def _cross_attention(b: Bound) -> Step:
    q, k, v = b.inputs
    heads = b.op.attr("heads")
    assert isinstance(heads, tuple)
    kept = b.outputs[1] if heads else None
    return lambda: attention.cross_attention(q, k, v, b.outputs[0], b.scratch, heads, kept)


def _cross_attention_int8(b: Bound) -> Step:
    q, k, v, k_scale, v_scale = b.inputs
    heads = b.op.attr("heads")
    assert isinstance(heads, tuple)
    out, kept = b.outputs[0], b.outputs[1] if heads else None

    def step() -> None:
        # Widened as they lie, so that BLAS adds up as it does where they are held as floats.
        keys, values = (x.astype(np.float32, copy=False) for x in (k, v))
        attention.cross_attention_int8(
            q, keys, values, k_scale, v_scale, out, b.scratch, heads, kept
        )

    return step


def _select_rows(b: Bound) -> Step:
    x, rows = b.inputs
    return lambda: np.take(x, rows, axis=1, out=b.outputs[0], mode="clip")


def _top_logprobs(b: Bound) -> Step:
    return lambda: choice.top_logprobs(b.inputs[0], *b.outputs)


BINDERS: Mapping[str, Callable[[Bound], Step]] = {
    "stft_power": _stft_power,
    "mel_log10": _mel_log10,
    "transpose": _transpose,
    "conv1d": _conv1d,
    "gelu": _gelu,
    "add": _add,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "im2col": _im2col,
    "quantize_rows": _quantize_rows,
    "linear_int8": _linear_int8,
    "attention": _attention,
    "split_heads": _split_heads,
    "quantize_heads": _quantize_heads,
    "embed": _embed,
    "embed_int8": _embed_int8,
    "store_cache": _store_cache,
    "cached_attention": _cached_attention,
    "cross_attention": _cross_attention,
    "cross_attention_int8": _cross_attention_int8,
    "select_rows": _select_rows,
    "top_logprobs": _top_logprobs,
}


def scratch_shape(op: Op, graph: Graph) -> tuple[int, ...] | None:
    """Shape of the float32 scratch that the NumPy function of this op works in, if any."""
    shapes = [graph[name].shape for name in op.inputs]
    if op.kind == "conv1d":
        _, steps, _ = graph[op.outputs[0]].shape
        return (steps, 3 * shapes[1][1])
    if op.kind == "linear_int8":
        *rows, k = shapes[0]
        return (quant.scratch_size(math.prod(rows), k, shapes[2][0]),)
    if op.kind == "attention":
        t = shapes[0][1]
        return (min(t, attention.QUERY_BLOCK), t)
    if op.kind in ("cached_attention", "cross_attention", "cross_attention_int8"):
        b, n, _ = shapes[0]
        _, h, t, _ = shapes[1]
        return (b * h * n * t,)
    return None
