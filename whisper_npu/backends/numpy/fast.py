"""Binders of faster ways to compute some ops on NumPy, for the shapes they are good at.

Each computes what the function of ``ops`` specifies, but for rounding. A binder gives None for a
shape that the specification handles as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from whisper_npu.backends.numpy.fast_attention import WindowAttention
from whisper_npu.backends.numpy.specification import Array, Bound, Step
from whisper_npu.ops import activation, attention, linear
from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.workers import Workers, scratch, spans, workers

# From so many rows on a product, or any other op on rows, is shared out to threads.
MANY_ROWS = 64
# Up to so many rows a product is done row by row, which OpenBLAS does several times faster.
FEW_ROWS = 8
# Columns of a wide weight that all rows are multiplied with before the next are read.
_COLUMNS = 4096
# Floats per block of an element-wise op. Three such blocks stay in a second-level cache, and each
# loop is long beside what it costs two threads to pass the interpreter to each other.
_BLOCK = 65536

# GELU is x Phi(x) = x / (1 + 2 ** (x g(x^2))), where x g(x^2) = -log2(Phi(x) / (1 - Phi(x))). These
# are the coefficients of a minimax fit of degree 6 to g, weighted by what an error in it does to
# GELU. Measured against the erf form in float64: 5.9e-7 at most for any x. The last coefficient
# makes the fit grow beyond all bounds on its own: nothing needs to be clamped, which NumPy is slow
# at.
_ODDS = tuple(
    np.float32(c)
    for c in (
        -2.3022077685,
        -0.10483789845,
        9.529085343e-05,
        1.594521324e-04,
        -1.145891766e-05,
        3.853644602e-07,
        -5.215803005e-09,
    )
)


def fast_step(bound: Bound, step: Step) -> Step:
    """The fastest way on NumPy to run an op: ``step``, its specification, if there is no other."""
    binder = FAST.get(bound.op.kind)
    fast = None if binder is None else binder(bound, workers())
    return step if fast is None else fast


def _rows(x: Array) -> F32:  # [..., d] -> [rows, d]
    return x.reshape(-1, x.shape[-1])


def _shared(team: Workers, rows: int, task: Callable[[slice], object], parts: int = 1) -> Step:
    """A step that runs ``task`` on slices of ``rows``, ``parts`` for each thread."""
    slices = spans(rows, team.threads * parts)
    return lambda: team.run(lambda piece: task(slices[piece]), len(slices))


def _linear(b: Bound, team: Workers) -> Step | None:
    x, w, *rest = b.inputs
    bias = rest[0] if rest else None
    x, out = _rows(x), _rows(b.outputs[0])
    if len(x) >= MANY_ROWS and team.threads > 1:
        return _shared(team, len(x), lambda part: linear.linear(x[part], w, bias, out[part]))
    if 1 < len(x) <= FEW_ROWS:
        return _few_rows(x, w, bias, out)
    return None


def _few_rows(x: F32, w: F32, bias: F32 | None, out: F32) -> Step:
    # As a batch of products of one row NumPy hands them to BLAS one by one.
    single, result = x[:, None], out[:, None]
    # Only where columns lie side by side is a slice of them read at full speed.
    size = _COLUMNS if w.T.flags.c_contiguous else len(w)
    parts = [
        (w[start : start + size].T, result[..., start : start + size])
        for start in range(0, len(w), size)
    ]

    def step() -> None:
        for columns, target in parts:
            np.matmul(single, columns, out=target)
        if bias is not None:
            np.add(out, bias, out=out)

    return step


def _conv1d(b: Bound, team: Workers) -> Step | None:
    x, w, bias = b.inputs
    (out,), columns = b.outputs, b.scratch
    stride = b.op.attr("stride")
    assert isinstance(stride, int)
    assert columns is not None
    if len(columns) < MANY_ROWS or team.threads == 1:
        return None
    slices = spans(len(columns), team.threads)

    def product(target: F32, piece: int) -> None:
        part = slices[piece]
        linear.linear(columns[part], w, bias, target[part])

    def step() -> None:
        for source, target in zip(x, out, strict=True):
            linear.im2col(source, stride, columns)
            team.run(partial(product, target), len(slices))

    return step


def _gelu(b: Bound, team: Workers) -> Step | None:
    x, out = b.inputs[0].reshape(-1), b.outputs[0].reshape(-1)
    if x.size <= _BLOCK:
        return None

    def blocks(part: slice) -> None:
        for start in range(part.start, part.stop, _BLOCK):
            block = slice(start, min(start + _BLOCK, part.stop))
            _gelu_block(x[block], out[block])

    return _shared(team, x.size, blocks)


def _gelu_block(x: F32, out: F32) -> None:  # [n], [n], which may be x
    square, power = scratch(x.shape, x.shape)
    # Where the polynomial leaves the range of float32 the quotient is 0 or x, as it should be.
    with np.errstate(over="ignore"):
        np.multiply(x, x, out=square)
        np.multiply(square, _ODDS[-1], out=power)
        for coefficient in _ODDS[-2:0:-1]:
            power += coefficient
            power *= square
        power += _ODDS[0]
        power *= x
        np.exp2(power, out=power)
        power += np.float32(1)
        np.divide(x, power, out=out)


def _layer_norm(b: Bound, team: Workers) -> Step | None:
    x, gain, bias = b.inputs
    x, out = _rows(x), _rows(b.outputs[0])
    d = x.shape[1]
    if len(x) > FEW_ROWS:
        return None
    average = np.full(d, 1 / d, np.float32)

    def step() -> None:
        # Products are the fastest sums of rows.
        mean = np.matmul(x, average)
        np.subtract(x, mean[:, None], out=out)
        deviation = np.einsum("ij,ij->i", out, out)
        deviation *= np.float32(1 / d)
        deviation += linear.LAYER_NORM_EPS
        np.sqrt(deviation, out=deviation)
        np.divide(out, deviation[:, None], out=out)
        np.multiply(out, gain, out=out)
        np.add(out, bias, out=out)

    return step


def _attention(b: Bound, team: Workers) -> Step | None:
    n_head = b.op.attr("n_head")
    assert isinstance(n_head, int)
    q, k, v = b.inputs
    return WindowAttention(q, k, v, n_head, b.outputs[0], team)


def _embed(b: Bound, team: Workers) -> Step:
    tokens, table, positions, position = b.inputs
    (out,) = b.outputs
    n = tokens.shape[1]

    def step() -> None:
        # Not ``take``, which copies a table that lies column by column before it looks anything up.
        np.add(table[tokens], positions[int(position) : int(position) + n], out=out)

    return step


def _cross_attention(b: Bound, team: Workers) -> Step | None:
    q, k, v, *scales = b.inputs
    (out, *kept), n_head = b.outputs, k.shape[1]
    rows = q.shape[0] * q.shape[1] // len(k)
    if kept or not 1 < rows <= FEW_ROWS or b.scratch is None or k.dtype != np.float32:
        return None
    shape = (len(k), n_head, rows)
    grouped, merged = (x.reshape(len(k), rows, x.shape[-1]) for x in (q, out))
    queries = attention.split_heads(grouped, n_head)
    result = attention.split_heads(merged, n_head)
    scores = b.scratch.reshape(-1)[: math.prod(shape) * k.shape[2]].reshape(*shape, 1, -1)
    scale = np.float32(k.shape[3] ** -0.5)
    # One query at a time, as products with weights are.
    keys, values = k.transpose(0, 1, 3, 2)[:, :, None], v

    def step() -> None:
        np.matmul((queries * scale)[..., None, :], keys, out=scores)
        if scales:
            scores[..., 0, :] *= scales[0][:, :, None]
        total = activation.softmax_rows(scores[..., 0, :])
        if scales:
            scores[..., 0, :] *= scales[1][:, :, None]
        np.divide(np.matmul(scores[..., 0, :], values), total, out=result)

    return step


FAST: Mapping[str, Callable[[Bound, Workers], Step | None]] = {
    "linear": _linear,
    "conv1d": _conv1d,
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "attention": _attention,
    "embed": _embed,
    "cross_attention": _cross_attention,
    "cross_attention_int8": _cross_attention,
}
