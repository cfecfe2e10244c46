"""NumPy's specification of every op as a backend: what runs where nothing else does.

Each kind has a function that calls the one of ``whisper_npu.ops`` with arrays as a plan has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from whisper_npu.model.graph import Graph, Op
from whisper_npu.model.integer_weights import LOGITS
from whisper_npu.model.weight_shapes import TOKEN_EMBEDDING
from whisper_npu.ops import (
    activation,
    attention,
    attention_int,
    choice,
    linear,
    mel,
    mel_int,
    product_int8,
    rows,
)
from whisper_npu.ops.arrays import F32, I32
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

if TYPE_CHECKING:
    # Not needed to run ops.
    from whisper_npu.backends.numpy.host_rates import HostRates

# Ops whose output may be written over the first input.
IN_PLACE = ("gelu", "add", "gelu_int32", "add_int32")


def transpose(x: F32, out: F32) -> None:  # [b, c, t] -> [b, t, c]
    """Time before channels."""
    np.copyto(out, x.transpose(0, 2, 1))


def conv1d(x: F32, w: F32, bias: F32, out: F32, stride: int, columns: F32 | None) -> None:
    # [b, t, c], [n, 3 c], [n] -> [b, t / stride, n]
    """``linear.conv1d`` of each window."""
    for source, target in zip(x, out, strict=True):
        linear.conv1d(source, w, bias, stride, target, columns)


def add(x: F32, y: F32, out: F32) -> None:  # [..., n], [n] or [..., n] -> [..., n]
    """The sum."""
    np.add(x, y, out=out)


def product(x: F32, w: F32, bias: F32 | None, out: F32) -> None:
    # [..., k], [n, k], [n] -> [..., n]
    """``linear.linear`` of all rows together, so that a batch is one product."""
    linear.linear(as_rows(x), w, bias, as_rows(out))


def im2col(x: F32, out: F32, stride: int) -> None:  # [b, t, c] -> [b, t / stride, 3 c]
    """``linear.im2col`` of each window."""
    for source, target in zip(x, out, strict=True):
        linear.im2col(source, stride, target)


def split_heads(x: F32, out: F32) -> None:  # [b, t, h * dh] -> [b, h, t, dh]
    """A copy with the heads split off."""
    np.copyto(out, attention.split_heads(x, out.shape[1]))


def quantize_int32(x: I32, values: Array, scale: F32, fraction: int) -> None:
    # [..., k] -> [..., k], [...]
    """``rows.quantize_int32`` to the type that ``values`` has."""
    rows.quantize_int32(x, 8 * values.itemsize, fraction, values, scale)


def rms_norm(x: I32, values: Array, scale: F32) -> None:  # [..., d] -> [..., d], [...]
    """``rows.rms_norm`` to the type that ``values`` has."""
    rows.rms_norm(x, 8 * values.itemsize, values, scale)


def integer_product(
    x: Array, x_scale: F32, w: Array, w_scale: F32, bias: I32 | None, out: I32
) -> None:  # [..., k], [...], [n, k], [n], [n] -> [..., n]
    """``product_int8.product_int8`` of all rows together; weights are widened for BLAS."""
    wide = w.astype(np.float32, copy=False)
    product_int8.product_int8(as_rows(x), x_scale.reshape(-1), wide, w_scale, bias, as_rows(out))


def select_rows(x: Array, rows: Array, out: Array) -> None:  # [b, n, d], [r] -> [b, r, d]
    """Some positions of each sequence."""
    np.take(x, rows, axis=1, out=out, mode="clip")


def as_rows(x: Array) -> Array:  # [..., d] -> [rows, d]
    """A view with one axis of rows."""
    return x.reshape(-1, x.shape[-1])


def stride_of(op: Op) -> int:
    """The attribute ``stride``."""
    stride = op.attr("stride")
    assert isinstance(stride, int)
    return stride


def fraction_of(op: Op) -> int:
    """The attribute ``fraction``."""
    fraction = op.attr("fraction")
    assert isinstance(fraction, int)
    return fraction


def heads_of(op: Op) -> int:
    """The attribute ``n_head``."""
    n_head = op.attr("n_head")
    assert isinstance(n_head, int)
    return n_head


def _kept_heads(op: Op) -> tuple[int, ...]:
    heads = op.attr("heads")
    assert isinstance(heads, tuple)
    return heads


def _plain(b: Bound) -> tuple[Any, ...]:
    return (*b.inputs, *b.outputs)


def _with_bias(b: Bound, count: int) -> tuple[Any, ...]:
    """The inputs, of which the bias behind the first ``count`` may be missing, and the outputs."""
    bias = b.inputs[count] if len(b.inputs) > count else None
    return (*b.inputs[:count], bias, *b.outputs)


def _over_int8(b: Bound) -> tuple[Any, ...]:
    heads = _kept_heads(b.op)
    return (*b.inputs, b.outputs[0], heads, b.outputs[1] if heads else None)


def _over_audio(b: Bound) -> tuple[Any, ...]:
    heads = _kept_heads(b.op)
    return (*b.inputs, b.outputs[0], b.scratch, heads, b.outputs[1] if heads else None)


# The function of each kind, and what it is called with.
FUNCTIONS: Mapping[str, tuple[Callable[..., Any], Callable[[Bound], tuple[Any, ...]]]] = {
    "stft_power": (mel.stft_power, _plain),
    "mel_log10": (mel.mel_log10, _plain),
    "log_mel_int16": (
        mel_int.log_mel_int16,
        lambda b: (b.inputs[0], mel_int.MelTables(*b.inputs[1:]), *b.outputs),
    ),
    "transpose": (transpose, _plain),
    "conv1d": (conv1d, lambda b: (*_plain(b), stride_of(b.op), b.scratch)),
    "gelu": (activation.gelu, _plain),
    "add": (add, _plain),
    "layer_norm": (linear.layer_norm, _plain),
    "linear": (product, lambda b: _with_bias(b, 2)),
    "im2col": (im2col, lambda b: (*_plain(b), stride_of(b.op))),
    "attention": (
        attention.attention,
        lambda b: (*b.inputs, heads_of(b.op), *b.outputs, b.scratch),
    ),
    "split_heads": (split_heads, _plain),
    "embed": (linear.embed, _plain),
    "store_cache": (attention.store_cache, lambda b: b.inputs),
    "cached_attention": (attention.cached_attention, lambda b: (*_plain(b), b.scratch)),
    "cross_attention": (attention.cross_attention, _over_audio),
    "quantize_int32": (quantize_int32, lambda b: (*_plain(b), fraction_of(b.op))),
    "rms_norm": (rms_norm, _plain),
    "product_int8": (integer_product, lambda b: _with_bias(b, 4)),
    "gelu_int32": (product_int8.gelu_int32, _plain),
    "add_int32": (product_int8.add_int32, _plain),
    "embed_int32": (product_int8.embed_int32, _plain),
    "attention_int32": (
        attention_int.attention_int32,
        lambda b: (*b.inputs, heads_of(b.op), *b.outputs),
    ),
    "attention_int8": (
        attention_int.attention_int8,
        lambda b: (*b.inputs, heads_of(b.op), *b.outputs),
    ),
    "store_int16": (attention_int.store_int16, lambda b: b.inputs),
    "cached_attention_int16": (attention_int.cached_attention_int16, _plain),
    "quantize_columns": (attention_int.quantize_columns, _plain),
    "cross_attention_int32": (attention_int.cross_attention_int32, _over_int8),
    "logits_float": (product_int8.logits_float, _plain),
    "select_rows": (select_rows, _plain),
    "top_logprobs": (choice.top_logprobs, _plain),
    "top_logprobs_int32": (choice.top_logprobs_int32, _plain),
}


def specify(bound: Bound) -> Step:
    """The step that computes a region, of one op or several, by the functions that specify them.

    Inner tensors of a region are allocated when it runs: that is rare.
    """
    if len(bound.ops) == 1:
        function, arguments = FUNCTIONS[bound.op.kind]
        return partial(function, *arguments(bound))
    return partial(specify_region, bound)


def specify_region(bound: Bound) -> None:
    """Compute the ops of a region one after the other."""
    inner = {tensor.name: np.empty(tensor.shape, tensor.dtype) for tensor in bound.inner}
    arrays = {**bound.arrays, **inner}
    for op in bound.ops:
        specify(Bound((op,), arrays))()


def is_wide(name: str, shape: Shape) -> bool:
    """Whether this is a matrix of the decoder, [n, k], with more outputs than inputs.

    OpenBLAS multiplies one row with such a weight at the speed of memory if its columns are in one
    piece, and at half of it if its rows are.
    """
    decoder = name.startswith("model.decoder.") and name.endswith((".fc1.weight", TOKEN_EMBEDDING))
    return (decoder or name == LOGITS) and shape[0] > shape[1]


def product_form(graph: Graph, weight: str) -> Form:
    """The form in which BLAS multiplies a weight fastest: floats, also where they are integers."""
    return Form("float32", "F" if is_wide(weight, graph[weight].shape) else "C")


def forms_of(graph: Graph, op: Op) -> dict[str, tuple[Form, ...]]:
    """The forms of weights and states that an op takes on NumPy, best first."""
    floats, integers = Form("float32"), Form("int8")
    if op.kind == "linear":
        return {op.inputs[1]: (product_form(graph, op.inputs[1]),)}
    if op.kind == "product_int8":
        return {op.inputs[2]: (product_form(graph, op.inputs[2]), integers)}
    if op.kind == "embed":
        table = op.inputs[1]
        return {table: (product_form(graph, table), floats)}
    if op.kind == "embed_int32":
        return {op.inputs[1]: (integers, floats)}
    if op.kind == "quantize_columns":
        return {op.outputs[0]: (floats, integers)}
    if op.kind == "cross_attention_int32":
        return dict.fromkeys(op.inputs[1:3], (floats, integers))
    return {}


def scratch_shape(op: Op, graph: Graph) -> Shape | None:
    """Shape of the float32 scratch that the function of an op works in, if any."""
    shapes = [graph[name].shape for name in op.inputs]
    if op.kind == "conv1d":
        _, steps, _ = graph[op.outputs[0]].shape
        return (steps, shapes[1][1])
    if op.kind == "attention":
        t = shapes[0][1]
        return (min(t, attention.QUERY_BLOCK), t)
    if op.kind == "cached_attention":
        *_, h, t, _ = shapes[1]
        return (h * shapes[0][1] * t,)
    if op.kind == "cross_attention":
        (b, n, _), (_, h, t, _), (windows,) = shapes[0], shapes[1], shapes[3]
        return (b // windows * h * n * t,)
    return None


class Specification(Backend):
    """The specification: it refuses nothing. ``host`` gives predicted times."""

    name = "specification"

    def __init__(self, host: HostRates | None = None) -> None:
        self._host, self.predicts = host, host is not None

    def offer(self, graph: Graph, index: int) -> Offer | Refusal:
        op = graph.ops[index]
        return Offer(
            backend=self.name,
            kernel=NUMPY,
            function=name_of(FUNCTIONS[op.kind][0]),
            ops=(op,),
            bind=specify,
            forms=forms_of(graph, op),
            scratch=scratch_shape(op, graph),
            in_place=op.kind in IN_PLACE,
            seconds=None if self._host is None else self._host.seconds(graph, op),
        )
