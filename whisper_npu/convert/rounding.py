"""The integer weights of a float model, rounded for the inputs that calibration finds.

The folded network (``model.integer_weights``) runs in float32 over windows of calibration, layer by
layer: every matrix is rounded when the inputs of its product are known. Memory holds one layer and
the activations of one place, whatever the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from whisper_npu.convert.calibration import Window
from whisper_npu.convert.compensated import Inputs, compensated, inputs_of
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.integer_weights import (
    DECODER_POSITIONS,
    LOGITS,
    ROTATION,
    Folding,
    nearest,
    row_scales,
)
from whisper_npu.model.weight_shapes import ENCODER_POSITIONS, TOKEN_EMBEDDING
from whisper_npu.ops.activation import gelu
from whisper_npu.ops.arrays import F32, I8
from whisper_npu.ops.fixed import F64
from whisper_npu.ops.linear import LAYER_NORM_EPS, im2col

# Query rows of attention at a time.
_QUERIES = 125
# Attention weights are e**-60 of the largest at least.
_LEAST = np.float32(-60)
_LN_2 = np.float32(math.log(2))


class Rounded(NamedTuple):
    """Some rows of a matrix, as they are folded and as integers with their scales.

    ``error`` and ``square`` are the sums of squares of the errors of the results that the rounding
    makes, and of the results, over the calibration; None where there was none.
    """

    name: str
    rows: slice
    matrix: F64
    values: I8
    scale: F32
    error: float | None = None
    square: float | None = None


Give = Callable[[Rounded], None]


def round_to_nearest(folding: Folding, name: str, give: Give) -> None:
    """Round a matrix by itself."""
    for rows in folding.parts(name):
        matrix = folding.matrix(name, rows)
        scale = row_scales(matrix)
        give(Rounded(name, rows, matrix, nearest(matrix, scale), scale))


def round_calibrated(
    folding: Folding, dims: ModelDimensions, windows: Sequence[Window], give: Give
) -> None:
    """Round all matrices for the inputs that they have in these windows, which are one at least.

    The table of the token embedding and the rotation are no products of inputs: they are rounded
    to the nearest.
    """
    for name in (TOKEN_EMBEDDING, ROTATION):
        round_to_nearest(folding, name, give)
    network = _Network(folding, dims, give)
    # Weights may be no model's, and overflow.
    with np.errstate(all="ignore"):
        states = network.encoder(np.stack([window.features for window in windows]))
        network.decoder(states, [window.sequences for window in windows])


class _Network:
    """The folded network. Activations are [rows, width], windows one after the other."""

    def __init__(self, folding: Folding, dims: ModelDimensions, give: Give) -> None:
        self._folding, self._dims, self._give = folding, dims, give

    def encoder(self, features: F32) -> F32:  # [w, n_mels, n_frames] -> [w n_audio_ctx, d]
        """The stream behind the last layer, normalised."""
        dims, root = self._dims, "model.encoder"
        x = features.transpose(0, 2, 1)
        for conv, stride in (("conv1", 1), ("conv2", 2)):
            columns = np.concatenate([im2col(frames, stride) for frames in x])
            x = gelu(self._product(f"{root}.{conv}.weight", columns, inputs_of(columns)))
            x = x.reshape(len(features), -1, x.shape[1])
        rotation = self._folding.matrix(ROTATION).astype(np.float32)
        x = x @ rotation.T
        x += self._folding.positions(ENCODER_POSITIONS).astype(np.float32)
        x = x.reshape(-1, x.shape[-1])
        spans = _spans([dims.n_audio_ctx] * len(features))
        for i in range(dims.n_audio_layer):
            layer = f"{root}.layers.{i}"
            normed = _normalised(x)
            q, k, v = self._products(f"{layer}.self_attn", "qkv", normed)
            attended = np.empty_like(q)
            for span in spans:
                attended[span] = _attention(q[span], k[span], v[span], dims.n_audio_head)
            x += self._out(f"{layer}.self_attn", attended)
            self._mlp(layer, x)
        return _normalised(x)

    def decoder(self, states: F32, sequences: Sequence[Sequence[Sequence[int]]]) -> None:
        """Round what is left, for rows of tokens with each window of the encoder's output."""
        dims, root, folding = self._dims, "model.decoder", self._folding
        flat = [(of, tokens) for of, rows in enumerate(sequences) for tokens in rows]
        spans = _spans([len(tokens) for _, tokens in flat])
        heard = _spans([dims.n_audio_ctx] * len(sequences))
        positions = folding.positions(DECODER_POSITIONS).astype(np.float32)
        table = {
            token: folding.matrix(TOKEN_EMBEDDING, slice(token, token + 1))[0].astype(np.float32)
            for token in {token for _, tokens in flat for token in tokens}
        }
        x = np.concatenate(
            [
                np.stack([table[token] for token in tokens]) + positions[: len(tokens)]
                for _, tokens in flat
            ]
        )
        of_states = inputs_of(states)
        for i in range(dims.n_text_layer):
            layer = f"{root}.layers.{i}"
            q, k, v = self._products(f"{layer}.self_attn", "qkv", _normalised(x))
            attended = np.empty_like(q)
            for span in spans:
                attended[span] = _attention(q[span], k[span], v[span], dims.n_text_head, True)
            x += self._out(f"{layer}.self_attn", attended)
            (q,) = self._products(f"{layer}.encoder_attn", "q", _normalised(x))
            k, v = self._products(f"{layer}.encoder_attn", "kv", states, of_states)
            for (of, _), span in zip(flat, spans, strict=True):
                window = heard[of]
                attended[span] = _attention(q[span], k[window], v[window], dims.n_text_head)
            x += self._out(f"{layer}.encoder_attn", attended)
            self._mlp(layer, x)
        inputs = inputs_of(_normalised(x))
        for rows in folding.parts(LOGITS):
            self._round(LOGITS, rows, folding.matrix(LOGITS, rows), inputs)

    def _products(self, layer: str, parts: str, x: F32, inputs: Inputs | None = None) -> list[F32]:
        inputs = inputs or inputs_of(x)
        return [self._product(f"{layer}.{part}_proj.weight", x, inputs) for part in parts]

    def _out(self, layer: str, x: F32) -> F32:
        return self._product(f"{layer}.out_proj.weight", x, inputs_of(x))

    def _mlp(self, layer: str, x: F32) -> None:
        """Add what the two products behind a layer's last norm give to the stream."""
        normed = _normalised(x)
        h = gelu(self._product(f"{layer}.fc1.weight", normed, inputs_of(normed)))
        x += self._product(f"{layer}.fc2.weight", h, inputs_of(h))

    def _product(self, name: str, x: F32, inputs: Inputs) -> F32:  # [m, k] -> [m, n]
        """Round a matrix, and multiply with what it was before, plus its bias."""
        product = self._folding.products[name]
        out = np.empty((len(x), product.shape[0]), np.float32)
        for rows in self._folding.parts(name):
            matrix = self._folding.matrix(name, rows)
            self._round(name, rows, matrix, inputs)
            np.matmul(x, matrix.T.astype(np.float32), out=out[:, rows])
        if product.has_bias:
            out += self._folding.bias(name).astype(np.float32)
        return out

    def _round(self, name: str, rows: slice, matrix: F64, inputs: Inputs) -> None:
        scale = row_scales(matrix)
        values, error, square = compensated(matrix, scale, inputs)
        self._give(Rounded(name, rows, matrix, values, scale, error, square))


def _spans(lengths: Sequence[int]) -> list[slice]:
    """Parts of such lengths that follow each other."""
    ends = np.cumsum(lengths).tolist()
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _normalised(x: F32) -> F32:  # [m, d] -> [m, d]
    """``x / sqrt(mean(x^2) + 1e-5)``: layer norm of rows without a mean."""
    squares = np.einsum("md,md->m", x, x)[:, None] / np.float32(x.shape[1])
    normed: F32 = x / np.sqrt(squares + LAYER_NORM_EPS)
    return normed


def _attention(
    q: F32, k: F32, v: F32, n_head: int, causal: bool = False
) -> F32:  # [m, d], [t, d], [t, d] -> [m, d]
    """Attention of every head, of queries that give scores in units of log2."""
    m, d = q.shape
    d_head = d // n_head
    out, q = np.empty_like(q), q * _LN_2
    for first in range(0, d, d_head):
        head = slice(first, first + d_head)
        for start in range(0, m, _QUERIES):
            rows = slice(start, min(start + _QUERIES, m))
            scores = q[rows, head] @ k[:, head].T
            if causal:
                scores[np.triu_indices(scores.shape[0], start + 1, len(k))] = -np.inf
            scores -= scores.max(axis=1, keepdims=True)
            # Weights beyond are no normal floats, with which processors take many times as long.
            np.maximum(scores, _LEAST, out=scores)
            np.exp(scores, out=scores)
            out[rows, head] = scores @ v[:, head]
            out[rows, head] /= scores.sum(axis=1, keepdims=True)
    return out
