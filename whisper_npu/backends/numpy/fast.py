"""Faster ways to compute some ops on NumPy, for the shapes that they are good at, as a backend.

Each computes what the function of ``ops`` specifies, but for rounding. For a shape that the
specification handles as well there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from whisper_npu.backends.numpy import fast_attention_int, fast_products, fast_rows
from whisper_npu.backends.numpy.fast_attention import WindowAttention
from whisper_npu.backends.numpy.fast_products import FEW_ROWS
from whisper_npu.backends.numpy.specification import (
    IN_PLACE,
    as_rows,
    forms_of,
    fraction_of,
    heads_of,
    product_form,
    scratch_shape,
    stride_of,
)
from whisper_npu.model.graph import Graph, Op
from whisper_npu.ops import activation, attention, linear
from whisper_npu.ops.arrays import F32, I32, I64
from whisper_npu.runtime.backend import (
    NUMPY,
    Array,
    Backend,
    Bound,
    Form,
    Offer,
    Refusal,
    Shape,
    Step,
    name_of,
)
from whisper_npu.runtime.workers import Workers, scratch, spans, workers

if TYPE_CHECKING:
    from whisper_npu.backends.numpy.host_rates import HostRates

# A product of at least this many rows, or another op on rows, is shared out to threads.
MANY_ROWS = 64
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


def _rows(x: Array) -> F32:  # [..., d] -> [rows, d]
    return x.reshape(-1, x.shape[-1])


class Shared:
    """A step that runs ``func`` on slices of ``rows``, ``parts`` for each thread."""

    def __init__(
        self, team: Workers, rows: int, func: Callable[[slice], object], parts: int = 1
    ) -> None:
        self.func = func
        self._team, self._slices = team, spans(rows, team.threads * parts)

    def __call__(self) -> None:
        self._team.run(self._piece, len(self._slices))

    def _piece(self, piece: int) -> None:
        self.func(self._slices[piece])


class SharedSum(Shared):
    """Such a step on the elements of a sum, of which each slice may say that one was cut."""

    def __init__(self, team: Workers, x: I32, y: I32, out: I32, cut: I32) -> None:
        # [n], [n] -> [n], []
        super().__init__(team, x.size, partial(fast_rows.add_part, x, y, out, cut))
        self._cut = cut

    def __call__(self) -> None:
        self._cut[...] = 0
        super().__call__()


def linear_part(x: F32, w: F32, bias: F32 | None, out: F32, part: slice) -> None:
    # [m, k], [n, k], [n] -> [m, n]
    """Some rows of a product."""
    linear.linear(x[part], w, bias, out[part])


def linear_by_rows(
    parts: Sequence[tuple[F32, F32]], single: F32, bias: F32 | None, out: F32
) -> None:  # [[k, n'], [m, 1, n']]..., [m, 1, k], [n] -> [m, n]
    """A product of few rows; ``parts`` are columns with their place in ``out``."""
    # As a batch of products of one row NumPy hands them to BLAS one by one.
    for columns, target in parts:
        np.matmul(single, columns, out=target)
    if bias is not None:
        np.add(out, bias, out=out)


def _linear(b: Bound, team: Workers) -> Step:
    x, w, *rest = b.inputs
    bias = rest[0] if rest else None
    x, out = _rows(x), _rows(b.outputs[0])
    if len(x) >= MANY_ROWS:
        return Shared(team, len(x), partial(linear_part, x, w, bias, out))
    result = out[:, None]
    # Only where columns lie side by side is a slice of them read at full speed.
    size = _COLUMNS if w.T.flags.c_contiguous else len(w)
    parts = [
        (w[start : start + size].T, result[..., start : start + size])
        for start in range(0, len(w), size)
    ]
    return partial(linear_by_rows, parts, x[:, None], bias, out)


def conv1d_parts(
    x: F32, w: F32, bias: F32, out: F32, stride: int, columns: F32, team: Workers
) -> None:  # [b, t, c], [n, 3 c], [n] -> [b, t / stride, n]
    """A convolution whose product is shared out by rows."""
    slices = spans(len(columns), team.threads)

    def product(target: F32, piece: int) -> None:
        linear_part(columns, w, bias, target, slices[piece])

    for source, target in zip(x, out, strict=True):
        linear.im2col(source, stride, columns)
        team.run(partial(product, target), len(slices))


def _conv1d(b: Bound, team: Workers) -> Step:
    (x, w, bias), (out,) = b.inputs, b.outputs
    assert b.scratch is not None
    return partial(conv1d_parts, x, w, bias, out, stride_of(b.op), b.scratch, team)


def gelu_blocks(x: F32, out: F32, part: slice) -> None:  # [n], [n], which may be x
    """GELU of some elements, block by block."""
    for start in range(part.start, part.stop, _BLOCK):
        block = slice(start, min(start + _BLOCK, part.stop))
        _gelu_block(x[block], out[block])


def _gelu(b: Bound, team: Workers) -> Step:
    x, out = b.inputs[0].reshape(-1), b.outputs[0].reshape(-1)
    return Shared(team, x.size, partial(gelu_blocks, x, out))


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


def layer_norm_rows(x: F32, gain: F32, bias: F32, average: F32, out: F32) -> None:
    # [m, d], [d], [d], [d] -> [m, d]
    """A layer norm of few rows; ``average`` holds 1 / d."""
    # Products are the fastest sums of rows.
    mean = np.matmul(x, average)
    np.subtract(x, mean[:, None], out=out)
    deviation = np.einsum("ij,ij->i", out, out)
    deviation *= np.float32(1 / len(average))
    deviation += linear.LAYER_NORM_EPS
    np.sqrt(deviation, out=deviation)
    np.divide(out, deviation[:, None], out=out)
    np.multiply(out, gain, out=out)
    np.add(out, bias, out=out)


def _layer_norm(b: Bound, team: Workers) -> Step:
    x, gain, bias = b.inputs
    average = np.full(x.shape[-1], 1 / x.shape[-1], np.float32)
    return partial(layer_norm_rows, _rows(x), gain, bias, average, _rows(b.outputs[0]))


def _attention(b: Bound, team: Workers) -> Step:
    (q, k, v), (out,) = b.inputs, b.outputs
    return WindowAttention(q, k, v, heads_of(b.op), out, team)


def embed_rows(tokens: Array, table: F32, positions: F32, position: I64, out: F32) -> None:
    # [b, n], [v, d], [ctx, d], [w] -> [b, n, d]
    """The look-up of ``linear.embed`` in a table of any order."""
    # Not ``take``, which copies a table that lies column by column before it looks anything up.
    np.add(table[tokens], positions[linear.places(position, tokens)], out=out)


def _embed(b: Bound, team: Workers) -> Step:
    return partial(embed_rows, *b.inputs, *b.outputs)


def cross_attention_by_query(
    queries: F32, keys: F32, values: F32, slot: I64, scale: np.float32, scores: F32, result: F32
) -> None:
    # [w, h, r, dh], [slots, h, 1, dh, t], [slots, h, t, dh], [w], [h, r, 1, t] -> [w, h, r, dh]
    """Attention to the audio, one query at a time, as products with weights are."""
    for query, place, mixed in zip(queries, slot.tolist(), result, strict=True):
        np.matmul((query * scale)[..., None, :], keys[place], out=scores)
        total = activation.softmax_rows(scores[..., 0, :])
        np.divide(np.matmul(scores[..., 0, :], values[place]), total, out=mixed)


def _cross_attention(b: Bound, team: Workers) -> Step:
    q, k, v, slot = b.inputs
    (out,), n_head, windows = b.outputs, k.shape[1], len(slot)
    assert b.scratch is not None
    rows = q.shape[0] * q.shape[1] // windows
    grouped, merged = (x.reshape(windows, rows, x.shape[-1]) for x in (q, out))
    queries = attention.split_heads(grouped, n_head)
    result = attention.split_heads(merged, n_head)
    scores = b.scratch.reshape(-1)[: n_head * rows * k.shape[2]].reshape(n_head, rows, 1, -1)
    scale = np.float32(k.shape[3] ** -0.5)
    keys = k.transpose(0, 1, 3, 2)[:, :, None]
    return partial(cross_attention_by_query, queries, keys, v, slot, scale, scores, result)


def _product_int8(b: Bound, team: Workers) -> Step:
    x, x_scale, w, w_scale, *rest = b.inputs
    bias = rest[0] if rest else None
    assert b.scratch is not None
    rows, out = as_rows(x), as_rows(b.outputs[0])
    args = (rows, x_scale.reshape(-1), w, w_scale, bias, out, b.scratch)
    if len(rows) >= MANY_ROWS:
        return fast_products.ManyRows(*args, team)
    return fast_products.FewRows(*args)


def _by_blocks(team: Workers, x: Array, func: Callable[[slice], object]) -> Shared:
    """A step on slices of rows, of about one block of elements each."""
    return Shared(team, len(x), func, max(1, x.size // (fast_rows.BLOCK * team.threads)))


def _quantize_int32(b: Bound, team: Workers) -> Step:
    x, values = as_rows(b.inputs[0]), as_rows(b.outputs[0])
    scale, fraction = b.outputs[1].reshape(-1), fraction_of(b.op)
    if len(x) <= FEW_ROWS:
        return fast_rows.FewRows(x, values, scale, fraction)
    return _by_blocks(team, x, fast_rows.ManyRows(x, values, scale, fraction))


def _rms_norm(b: Bound, team: Workers) -> Step:
    x, values, scale = as_rows(b.inputs[0]), as_rows(b.outputs[0]), b.outputs[1].reshape(-1)
    if len(x) <= FEW_ROWS:
        return fast_rows.FewNorms(x, values, scale)
    return _by_blocks(team, x, fast_rows.ManyNorms(x, values, scale))


def _gelu_int32(b: Bound, team: Workers) -> Step:
    x, out = b.inputs[0].reshape(-1), b.outputs[0].reshape(-1)
    return Shared(team, x.size, partial(fast_rows.gelu_part, x, out))


def _add_int32(b: Bound, team: Workers) -> Step:
    out, cut = b.outputs
    x, y, out = (array.reshape(-1) for array in (*b.inputs, out))
    return SharedSum(team, x, y, out, cut)


def _attention_int32(b: Bound, team: Workers) -> Step:
    (q, k, v), (out,) = b.inputs, b.outputs
    return fast_attention_int.WindowAttention(q, k, v, heads_of(b.op), out, team)


def _attention_int8(b: Bound, team: Workers) -> Step:
    (q, k, v), (out,) = b.inputs, b.outputs
    return fast_attention_int.WindowAttentionInt8(q, k, v, heads_of(b.op), out, team)


def _pays_attention_int8(graph: Graph, op: Op, team: Workers) -> bool:
    d_head = graph[op.inputs[0]].shape[-1] // heads_of(op)
    return d_head <= fast_attention_int.WIDEST_INT8


def _quantize_columns(b: Bound, team: Workers) -> Step:
    (x,), (values, scale) = b.inputs, b.outputs
    return Shared(team, values.shape[1], partial(fast_rows.columns_part, x, values, scale))


def _cross_attention_int32(b: Bound, team: Workers) -> Step:
    q, k, v, k_scale, v_scale, slot = b.inputs
    return fast_attention_int.AudioAttention(q, k, v, k_scale, v_scale, slot, b.outputs[0])


def _rows_of(graph: Graph, op: Op) -> int:
    """Rows of the first input."""
    return math.prod(graph[op.inputs[0]].shape[:-1])


def _pays_linear(graph: Graph, op: Op, team: Workers) -> bool:
    rows = _rows_of(graph, op)
    return (rows >= MANY_ROWS and team.threads > 1) or 1 < rows <= FEW_ROWS


def _pays_conv1d(graph: Graph, op: Op, team: Workers) -> bool:
    return graph[op.outputs[0]].shape[1] >= MANY_ROWS and team.threads > 1


def _pays_gelu(graph: Graph, op: Op, team: Workers) -> bool:
    return graph[op.inputs[0]].size > _BLOCK


def _pays_layer_norm(graph: Graph, op: Op, team: Workers) -> bool:
    return _rows_of(graph, op) <= FEW_ROWS


def _pays_always(graph: Graph, op: Op, team: Workers) -> bool:
    return True


def _rows_of_a_window(graph: Graph, op: Op) -> int:
    """Rows of the first input for each of the windows, whose slots are the last one."""
    return _rows_of(graph, op) // graph[op.inputs[-1]].size


def _pays_cross_attention(graph: Graph, op: Op, team: Workers) -> bool:
    return not op.attr("heads") and 1 < _rows_of_a_window(graph, op) <= FEW_ROWS


def _pays_rows(graph: Graph, op: Op, team: Workers) -> bool:
    tensor = graph[op.inputs[0]]
    return _rows_of(graph, op) <= FEW_ROWS or tensor.size > fast_rows.BLOCK


def _pays_elements(graph: Graph, op: Op, team: Workers) -> bool:
    tensor = graph[op.inputs[0]]
    return tensor.size > fast_rows.BLOCK and all(graph[n].shape == tensor.shape for n in op.inputs)


def _pays_columns(graph: Graph, op: Op, team: Workers) -> bool:
    return graph[op.inputs[0]].size > fast_rows.BLOCK


def _pays_cross_attention_int32(graph: Graph, op: Op, team: Workers) -> bool:
    *_, t, d_head = graph[op.inputs[1]].shape
    few = not op.attr("heads") and _rows_of_a_window(graph, op) <= FEW_ROWS
    return few and t <= fast_attention_int.LONGEST and d_head <= fast_attention_int.WIDEST


@dataclass(frozen=True)
class _Way:
    """A faster way: where it pays, what binds it, and the function that it calls.

    ``forms`` and ``scratch`` are those of the specification unless others are given.
    """

    pays: Callable[[Graph, Op, Workers], bool]
    bind: Callable[[Bound, Workers], Step]
    function: Callable[[Graph, Op], object]
    forms: Callable[[Graph, Op], dict[str, tuple[Form, ...]]] = forms_of
    scratch: Callable[[Op, Graph], Shape | None] = scratch_shape


def _linear_function(graph: Graph, op: Op) -> object:
    return linear_part if _rows_of(graph, op) >= MANY_ROWS else linear_by_rows


def _product_function(graph: Graph, op: Op) -> object:
    many = _rows_of(graph, op) >= MANY_ROWS
    return fast_products.ManyRows if many else fast_products.FewRows


def _product_forms(graph: Graph, op: Op) -> dict[str, tuple[Form, ...]]:
    weight = op.inputs[2]
    floats, integers = product_form(graph, weight), Form("int8")
    # Many rows take so long that the weight is widened on the way.
    many = _rows_of(graph, op) >= MANY_ROWS
    return {weight: (integers, floats) if many else (floats, integers)}


def _product_scratch(op: Op, graph: Graph) -> Shape:
    m, x, (n, k) = _rows_of(graph, op), graph[op.inputs[0]], graph[op.inputs[2]].shape
    if m >= MANY_ROWS:
        return fast_products.many_rows_scratch(x.dtype, n, k)
    return fast_products.few_rows_scratch(x.dtype, m, n, k)


def _rows_function(few: object, part: object) -> Callable[[Graph, Op], object]:
    return lambda graph, op: few if _rows_of(graph, op) <= FEW_ROWS else part


def _float_forms(graph: Graph, op: Op) -> dict[str, tuple[Form, ...]]:
    """BLAS multiplies the keys and values of the audio only as floats."""
    return dict.fromkeys(op.inputs[1:3], (Form("float32"),))


FAST: Mapping[str, _Way] = {
    "linear": _Way(_pays_linear, _linear, _linear_function),
    "conv1d": _Way(_pays_conv1d, _conv1d, lambda graph, op: conv1d_parts),
    "gelu": _Way(_pays_gelu, _gelu, lambda graph, op: gelu_blocks),
    "layer_norm": _Way(_pays_layer_norm, _layer_norm, lambda graph, op: layer_norm_rows),
    "attention": _Way(_pays_always, _attention, lambda graph, op: WindowAttention),
    "embed": _Way(_pays_always, _embed, lambda graph, op: embed_rows),
    "cross_attention": _Way(
        _pays_cross_attention, _cross_attention, lambda graph, op: cross_attention_by_query
    ),
    "product_int8": _Way(
        _pays_always, _product_int8, _product_function, _product_forms, _product_scratch
    ),
    "quantize_int32": _Way(
        _pays_rows, _quantize_int32, _rows_function(fast_rows.FewRows, fast_rows.ManyRows)
    ),
    "rms_norm": _Way(
        _pays_rows, _rms_norm, _rows_function(fast_rows.FewNorms, fast_rows.ManyNorms)
    ),
    "gelu_int32": _Way(_pays_elements, _gelu_int32, lambda graph, op: fast_rows.gelu_part),
    "add_int32": _Way(_pays_elements, _add_int32, lambda graph, op: fast_rows.add_part),
    "attention_int32": _Way(
        _pays_always, _attention_int32, lambda graph, op: fast_attention_int.WindowAttention
    ),
    "attention_int8": _Way(
        _pays_attention_int8,
        _attention_int8,
        lambda graph, op: fast_attention_int.WindowAttentionInt8,
    ),
    "quantize_columns": _Way(
        _pays_columns, _quantize_columns, lambda graph, op: fast_rows.columns_part
    ),
    "cross_attention_int32": _Way(
        _pays_cross_attention_int32,
        _cross_attention_int32,
        lambda graph, op: fast_attention_int.AudioAttention,
        _float_forms,
    ),
}


class FastNumPy(Backend):
    """The faster ways. ``host`` gives predicted times: those of the specification."""

    name = "fast NumPy"

    def __init__(self, host: HostRates | None = None) -> None:
        self._host, self.predicts = host, host is not None

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        op, team = graph.ops[index], workers()
        way = FAST.get(op.kind)
        if way is None:
            return Refusal(self.name, f"no faster way for {op.kind}")
        if not way.pays(graph, op, team):
            return Refusal(self.name, "no faster way for this shape")
        return Offer(
            backend=self.name,
            kernel=NUMPY,
            function=name_of(way.function(graph, op)),
            ops=(op,),
            bind=lambda bound: way.bind(bound, team),
            forms=way.forms(graph, op),
            scratch=way.scratch(op, graph),
            in_place=op.kind in IN_PLACE,
            seconds=None if self._host is None else self._host.seconds(graph, op),
        )
