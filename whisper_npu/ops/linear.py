"""Products with weights, convolution as a product, layer norm, embedding."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from whisper_npu.ops.arrays import F32, I8, I64

Weight = TypeVar("Weight", F32, I8)

LAYER_NORM_EPS = np.float32(1e-5)


def linear(
    x: F32, w: F32, b: F32 | None = None, out: F32 | None = None
) -> F32:  # [..., k], [n, k], [n] -> [..., n]
    """``x @ w.T + b``."""
    out = np.matmul(x, w.T, out=out)
    if b is not None:
        out += b
    return out


def im2col(x: F32, stride: int, out: F32 | None = None) -> F32:  # [t, c] -> [t / stride, 3 c]
    """The three frames that each step of a convolution of width 3 sees, side by side.

    One frame of zeros is added at each end; taps come before channels.
    """
    t, c = x.shape
    steps = t // stride
    if out is None:
        out = np.empty((steps, 3 * c), np.float32)
    taps = out.reshape(steps, 3, c)
    taps[0, 0] = 0
    taps[1:, 0] = x[stride - 1 : t - 1 : stride]
    taps[:, 1] = x[::stride]
    if stride == 1:
        taps[-1, 2] = 0
        taps[:-1, 2] = x[1:]
    else:
        taps[:, 2] = x[1::stride]
    return out


def conv1d(
    x: F32, w: F32, b: F32, stride: int, out: F32 | None = None, columns: F32 | None = None
) -> F32:  # [t, c], [n, 3 c], [n] -> [t / stride, n]
    """Convolution of width 3 with one frame of zeros at each end, time before channels.

    ``w`` is the matrix that ``conv_matrix`` makes of the weights; ``columns`` is scratch of shape
    [t / stride, 3 c].
    """
    return linear(im2col(x, stride, columns), w, b, out)


def conv_matrix(w: Weight) -> Weight:  # [n, c, 3] -> [n, 3 c]
    """Convolution weights as the matrix that multiplies the rows of ``im2col``."""
    return np.ascontiguousarray(w.transpose(0, 2, 1)).reshape(w.shape[0], -1)


def layer_norm(
    x: F32, gain: F32, bias: F32, out: F32 | None = None
) -> F32:  # [..., d], [d], [d] -> [..., d]
    """``(x - mean) / sqrt(variance + 1e-5) * gain + bias`` over the last axis."""
    out = np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)
    variance = np.einsum("...d,...d->...", out, out)[..., None] / np.float32(x.shape[-1])
    out /= np.sqrt(variance + LAYER_NORM_EPS)
    out *= gain
    out += bias
    return out


def embed(
    tokens: I64, table: F32, positions: F32, position: I64, out: F32 | None = None
) -> F32:  # [b, n], [v, d], [ctx, d], [w] -> [b, n, d]
    """Token embedding plus the embedding of the positions from ``position`` of each window on."""
    # mode="clip" keeps NumPy from buffering the whole output; ids are checked by the caller.
    out = np.take(table, tokens, axis=0, out=out, mode="clip")
    out += positions[places(position, tokens)]
    return out


def places(position: I64, tokens: I64) -> I64:  # [w], [b, n] -> [b, n]
    """The position of every token: those of a sequence follow each other from ``position`` of its
    window on."""
    b, n = tokens.shape
    first = np.repeat(position, b // len(position))
    found: I64 = first[:, None] + np.arange(n)
    return found
