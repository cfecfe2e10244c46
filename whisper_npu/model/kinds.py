"""The kinds of op: for each, the output shapes that its inputs give, and its cost in FLOPs.

What a kind computes is specified by the function of the same name in ``whisper_npu.ops``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from whisper_npu.model.graph import Op

Shape = tuple[int, ...]
Shapes = Sequence[Shape]


@dataclass(frozen=True)
class OpKind:
    """``shapes`` raises ValueError if the inputs do not fit; ``flops`` counts a multiply and an
    add as two. Ops over the KV cache are counted at its full length."""

    shapes: Callable[[Op, Shapes], tuple[Shape, ...]]
    flops: Callable[[Op, Shapes, Shapes], int]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _int(op: Op, name: str) -> int:
    value = op.attr(name)
    _require(isinstance(value, int), f"attribute {name} must be an integer")
    assert isinstance(value, int)
    return value


def _per_element(count: int) -> Callable[[Op, Shapes, Shapes], int]:
    return lambda op, inputs, outputs: count * math.prod(outputs[0])


def _no_flops(op: Op, inputs: Shapes, outputs: Shapes) -> int:
    return 0


def _stft_power(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    (samples,) = inputs
    n_fft, hop = _int(op, "n_fft"), _int(op, "hop")
    frames, rest = divmod(samples[0] - n_fft, hop)
    _require(len(samples) == 1 and rest == 0 and frames >= 0, "samples do not fill whole frames")
    return ((frames + 1, n_fft // 2 + 1),)


def _stft_flops(op: Op, inputs: Shapes, outputs: Shapes) -> int:
    # The usual count for a real FFT of length n: 2.5 n log2 n.
    n_fft = _int(op, "n_fft")
    return int(outputs[0][0] * 2.5 * n_fft * math.log2(n_fft))


def _mel_log10(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    power, filters = inputs
    _require(power[1] == filters[1], "power spectrum and filters differ in length")
    return ((filters[0], power[0]),)


def _log_mel_int16(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    samples, window, short, long, filters, shifts, logarithms = inputs
    ((frames, bins),) = _stft_power(op, [samples])
    _require(window == (_int(op, "n_fft"),), "the window is not as long as a frame")
    _require(window == (short[1] * long[1],), "transforms do not fit the window")
    _require(filters == (*shifts, bins) and len(logarithms) == 1, "tables do not fit")
    return ((filters[0], frames),)


def _log_mel_int16_flops(op: Op, inputs: Shapes, outputs: Shapes) -> int:
    # Both transforms, and power in two halves by filters.
    _, _, (m, short), (n, long), (n_mels, bins), _, _ = inputs
    _, frames = outputs[0]
    return 2 * frames * (m * short * long + m * n * long + 2 * n_mels * bins)


def _transpose(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    ((b, c, t),) = inputs
    return ((b, t, c),)


def _conv1d(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    (b, t, c), w, bias = inputs
    stride = _int(op, "stride")
    _require(w[1:] == (3 * c,) and bias == w[:1] and t % stride == 0, "weights do not fit")
    return ((b, t // stride, w[0]),)


def _conv1d_flops(op: Op, inputs: Shapes, outputs: Shapes) -> int:
    return 2 * math.prod(outputs[0]) * inputs[1][1]


def _same(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    return (inputs[0],)


def _add(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    x, y = inputs
    _require(len(y) <= len(x) and x[len(x) - len(y) :] == y, "operands do not broadcast")
    return (x,)


def _add_int32(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    return (*_add(op, inputs), ())


def _layer_norm(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    x, gain, bias = inputs
    _require(gain == bias == x[-1:], "gain and bias do not fit")
    return (x,)


def _linear(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    x, w = inputs[:2]
    _require(x[-1] == w[1] and all(b == w[:1] for b in inputs[2:]), "weights do not fit")
    return ((*x[:-1], w[0]),)


def _linear_flops(op: Op, inputs: Shapes, outputs: Shapes) -> int:
    return 2 * math.prod(outputs[0]) * inputs[1][1]


def _im2col(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    ((b, t, c),) = inputs
    stride = _int(op, "stride")
    _require(t % stride == 0, "the stride does not divide the frames")
    return ((b, t // stride, 3 * c),)


def _product_int8(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    x, x_scale, w, w_scale = inputs[:4]
    _require(x_scale == x[:-1], "rows and their scales differ in number")
    _require(x[-1:] == w[1:], "weights do not fit")
    _require(all(b == w[:1] for b in (w_scale, *inputs[4:])), "scales or bias do not fit")
    return ((*x[:-1], w[0]),)


def _product_int8_flops(op: Op, inputs: Shapes, outputs: Shapes) -> int:
    return 2 * math.prod(outputs[0]) * inputs[0][-1]


def _attention(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    q, k, v = inputs
    _require(q == k == v and q[-1] % _int(op, "n_head") == 0, "q, k and v do not fit")
    return (q,)


def _attention_flops(op: Op, inputs: Shapes, outputs: Shapes) -> int:
    b, t, d = inputs[0]
    return 4 * b * t * t * d


def _split_heads(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    ((b, t, d),) = inputs
    n_head = _int(op, "n_head")
    _require(d % n_head == 0, "heads do not divide the width")
    return ((b, n_head, t, d // n_head),)


def _embed(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    tokens, table, positions, position = inputs
    _require(
        len(tokens) == 2 and table[1] == positions[1] and tokens[0] % position[0] == 0,
        "embedding does not fit",
    )
    return ((*tokens, table[1]),)


def _embed_int32(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    tokens, table, scale, positions, position = inputs
    _require(scale == table[:1], "scales do not fit the embedding")
    return _embed(op, (tokens, table, positions, position))


def _store_cache(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    x, cache, *windows = inputs
    _own_cache(x, cache, *windows)
    return (cache,)


def _own_cache(x: Shape, cache: Shape, position: Shape, slot: Shape) -> None:
    (b, _, d), (slots, members, h, _, dh), (windows,) = x, cache, position
    fits = b % windows == 0 and b // windows <= members and windows <= slots
    _require(fits and position == slot and d == h * dh, "cache does not fit")


def _cached_attention(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    q, k, v, *windows = inputs
    _require(k == v, "cache does not fit")
    _own_cache(q, k, *windows)
    return (q,)


def _cross_attention(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    (b, n, d), k, v, (windows,) = inputs
    fits = b % windows == 0 and windows <= k[0] and d == k[1] * k[3]
    _require(k == v and fits, "cross keys and values do not fit")
    heads = dict(op.attrs).get("heads", ())
    assert isinstance(heads, tuple)
    _require(all(head < k[1] for head in heads), "an alignment head is beyond the last head")
    return ((b, n, d), (len(heads), n, k[2])) if heads else ((b, n, d),)


def _cache_flops(op: Op, inputs: Shapes, outputs: Shapes) -> int:
    return 4 * math.prod(inputs[0]) * inputs[1][-2]


def _rows_and_scales(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    _require(_int(op, "bits") in (8, 16), "rows are of 8 or 16 bits")
    return (inputs[0], inputs[0][:-1])


def _quantize_columns(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    (values,) = _split_heads(op, inputs)
    return (values, (*values[:2], values[3]))


def _cross_attention_int32(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    _, k, _, *scales, slot = inputs
    _require(all(s == (*k[:2], k[3]) for s in scales), "scales of keys or values do not fit")
    return _cross_attention(op, (*inputs[:3], slot))


def _top_logprobs(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    ((n, n_vocab),) = inputs
    k = _int(op, "k")
    _require(0 < k <= n_vocab, "there are not so many tokens")
    return ((n, k), (n, k))


def _top_logprobs_flops(op: Op, inputs: Shapes, outputs: Shapes) -> int:
    # Compared, exponentiated and added up.
    return 10 * math.prod(inputs[0])


def _select_rows(op: Op, inputs: Shapes) -> tuple[Shape, ...]:
    (b, _, d), (rows,) = inputs
    return ((b, rows, d),)


KINDS: Mapping[str, OpKind] = {
    "stft_power": OpKind(_stft_power, _stft_flops),
    "mel_log10": OpKind(_mel_log10, lambda op, i, o: 2 * math.prod(o[0]) * i[0][1]),
    "log_mel_int16": OpKind(_log_mel_int16, _log_mel_int16_flops),
    "transpose": OpKind(_transpose, _no_flops),
    "conv1d": OpKind(_conv1d, _conv1d_flops),
    "gelu": OpKind(_same, _per_element(8)),
    "add": OpKind(_add, _per_element(1)),
    "layer_norm": OpKind(_layer_norm, _per_element(8)),
    "linear": OpKind(_linear, _linear_flops),
    "im2col": OpKind(_im2col, _no_flops),
    "attention": OpKind(_attention, _attention_flops),
    "split_heads": OpKind(_split_heads, _no_flops),
    "embed": OpKind(_embed, _per_element(1)),
    "store_cache": OpKind(_store_cache, _no_flops),
    "cached_attention": OpKind(_cached_attention, _cache_flops),
    "cross_attention": OpKind(_cross_attention, _cache_flops),
    "quantize_int32": OpKind(_rows_and_scales, _per_element(4)),
    "rms_norm": OpKind(_rows_and_scales, _per_element(6)),
    "product_int8": OpKind(_product_int8, _product_int8_flops),
    "gelu_int32": OpKind(_same, _per_element(8)),
    "add_int32": OpKind(_add_int32, _per_element(1)),
    "embed_int32": OpKind(_embed_int32, _per_element(2)),
    "attention_int32": OpKind(_attention, _attention_flops),
    "attention_int8": OpKind(_attention, _attention_flops),
    "store_int16": OpKind(_store_cache, _no_flops),
    "cached_attention_int16": OpKind(_cached_attention, _cache_flops),
    "quantize_columns": OpKind(_quantize_columns, _per_element(2)),
    "cross_attention_int32": OpKind(_cross_attention_int32, _cache_flops),
    "logits_float": OpKind(_same, _per_element(1)),
    "select_rows": OpKind(_select_rows, _no_flops),
    "top_logprobs": OpKind(_top_logprobs, _top_logprobs_flops),
    "top_logprobs_int32": OpKind(_top_logprobs, _top_logprobs_flops),
}
