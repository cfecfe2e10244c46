"""Activation smoothing: moving outlier channels from activations into weights.

A layer norm's output channel j is divided by s[j] (folded into the norm's gain and bias) and the
columns j of the products that read it are multiplied by s[j]: the same function, but with fewer
outliers in the rows that are quantised. s[j] = max|x[j]|^a / max|w[:, j]|^(1 - a), from Xiao et
al., SmoothQuant (arXiv 2211.10438), eq. 4. Each norm is judged by itself on calibration
recordings: it is smoothed only if that brings its products measurably nearer to float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whisper_npu.audio import load_audio
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.backends.opening import numpy_model
from whisper_npu.convert.tensors import Source, StoredTensor
from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.decoding.windows import transcribe_windows
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.stored import StoredType
from whisper_npu.model.weight_shapes import Shape
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.quant import Quantized, linear_int8, quantize_rows, quantize_weight
from whisper_npu.text.tokenizer import Tokenizer

EXPONENTS = (0.25, 0.5, 0.75)
# Less than this is within what another recording would change.
GAIN = 0.98
# Rows of each activation that are kept from one window.
_SAMPLE = 64


@dataclass(frozen=True)
class Group:
    """A layer norm, the weights that multiply its output, and the name of that activation."""

    norm: str
    weights: tuple[str, ...]
    activation: str


def groups(dims: ModelDimensions) -> Iterator[Group]:
    """What can be smoothed. The decoder's last norm cannot: its product shares the embedding."""
    for i in range(dims.n_audio_layer):
        yield from _layer(f"model.encoder.layers.{i}", f"encoder.{i}")
    cross = [f"model.decoder.layers.{i}.encoder_attn" for i in range(dims.n_text_layer)]
    weights = tuple(f"{layer}.{part}_proj.weight" for layer in cross for part in "kv")
    yield Group("model.encoder.layer_norm", weights, "states")
    for i in range(dims.n_text_layer):
        layer, prefix = f"model.decoder.layers.{i}", f"decoder.{i}"
        yield from _layer(layer, prefix)
        query = f"{layer}.encoder_attn.q_proj.weight"
        yield Group(f"{layer}.encoder_attn_layer_norm", (query,), f"{prefix}.cross_ln")


def _layer(layer: str, prefix: str) -> Iterator[Group]:
    qkv = tuple(f"{layer}.self_attn.{part}_proj.weight" for part in "qkv")
    yield Group(f"{layer}.self_attn_layer_norm", qkv, f"{prefix}.attn_ln")
    yield Group(f"{layer}.final_layer_norm", (f"{layer}.fc1.weight",), f"{prefix}.mlp_ln")


def find_factors(model: Path, recordings: Sequence[Path]) -> dict[str, F32]:
    """The factors s, [d], of the norms that smoothing helps.

    ``model`` is a model folder in float32. Raises AudioError and ModelError.
    """
    rows = _activations(model, recordings)
    checkpoint = load_checkpoint(model)
    weights = {
        name: weight.dequantize() if isinstance(weight, Quantized) else weight
        for name, weight in checkpoint.weights.items()
    }
    factors = {}
    for group in groups(checkpoint.dims):
        factor = best_factor(rows[group.activation], [weights[name] for name in group.weights])
        if factor is not None:
            factors[group.norm] = factor
    return factors


def best_factor(x: F32, weights: Sequence[F32]) -> F32 | None:  # [m, d], [n, d]... -> [d]
    """The factors that help most, or None if none helps.

    They are chosen on every other row and judged on the rest.
    """
    chosen_on, judged_on = x[::2], x[1::2]
    largest_x = np.abs(x).max(axis=0)
    largest_w = np.max([np.abs(w).max(axis=0) for w in weights], axis=0)
    candidates = [_factor(largest_x, largest_w, exponent) for exponent in EXPONENTS]
    errors = [_error(chosen_on, weights, factor) for factor in candidates]
    best = candidates[int(np.argmin(errors))]
    plain = _error(judged_on, weights, np.ones_like(best))
    return best if _error(judged_on, weights, best) < GAIN * plain else None


def _factor(largest_x: F32, largest_w: F32, exponent: float) -> F32:  # [d], [d] -> [d]
    floor = np.float32(1e-5)
    factor = np.maximum(largest_x, floor) ** exponent / (
        np.maximum(largest_w, floor) ** (1 - exponent)
    )
    # The level of all channels together changes nothing: rows and weights have scales.
    normal: F32 = (factor / np.exp(np.log(factor).mean())).clip(1e-2, 1e2).astype(np.float32)
    return normal


def _error(x: F32, weights: Sequence[F32], factor: F32) -> float:
    """Sum of the squared relative errors of the products in INT8."""
    rows, scale = quantize_rows(x / factor)
    total = 0.0
    for w in weights:
        exact = x @ w.T
        quantized = quantize_weight(w * factor)
        product = linear_int8(rows, scale, quantized.values.astype(np.float32), quantized.scale)
        total += float(np.square(product - exact).sum() / np.square(exact).sum())
    return total


def _activations(model: Path, recordings: Sequence[Path]) -> dict[str, F32]:
    """Rows of every activation that a group names, over all windows of the recordings."""
    checkpoint = load_checkpoint(model)
    network = numpy_model(checkpoint)
    tokenizer = Tokenizer.from_dir(model, checkpoint.dims.n_vocab, checkpoint.generation)
    greedy = TranscribeOptions(temperature=0.0)
    wanted = {group.activation for group in groups(checkpoint.dims)}
    kept: dict[str, list[F32]] = {name: [] for name in wanted}
    rng = np.random.default_rng(0)

    def observe(name: str, array: F32) -> None:
        if name in wanted:
            rows = array.reshape(-1, array.shape[-1])
            kept[name].append(rows[rng.permutation(len(rows))[:_SAMPLE]])

    for recording in recordings:
        samples = load_audio(str(recording))
        with compute_log_mel([samples], checkpoint.dims.n_mels, network.log_mel) as log_mel:
            transcript = transcribe_windows(network, tokenizer, log_mel, greedy)
            # All of them first: the network decodes one thing at a time.
            spoken = list(transcript)
            sot = list(tokenizer.for_task(transcript.language, "transcribe").sot_sequence)
            for seek, segments in groupby(spoken, lambda segment: segment.seek):
                text = [token for segment in segments for token in segment.tokens]
                tokens = [*sot, *text][: checkpoint.dims.n_text_ctx]
                states = network.encode(log_mel.window(seek)[None], observe)
                session = network.decoder(states)
                session.prefill([tokens], [len(tokens) - 1], observe)
    return {name: np.concatenate(rows) for name, rows in kept.items()}


@dataclass(frozen=True)
class _Scaled:
    """A stored tensor times a factor over its last axis."""

    tensor: StoredTensor
    factor: F32

    @property
    def shape(self) -> Shape:
        return self.tensor.shape

    @property
    def stored(self) -> StoredType:
        return self.tensor.stored

    @property
    def n_bytes(self) -> int:
        return self.tensor.n_bytes

    def blocks(self, block_bytes: int) -> Iterator[F32]:
        first = 0
        for block in self.tensor.blocks(block_bytes):
            # A norm's parameters are cut along the axis that the factor belongs to.
            factor = self.factor
            yield block * (factor if block.ndim > 1 else factor[first : first + len(block)])
            first += len(block)


def smoothed(source: Source, factors: Mapping[str, NDArray[np.float32]]) -> Source:
    """The source with factors, [d], folded into norms and weights."""
    tensors = dict(source.tensors)
    for group in groups(source.dims):
        factor = factors.get(group.norm)
        if factor is not None:
            for part in ("weight", "bias"):
                name = f"{group.norm}.{part}"
                tensors[name] = _Scaled(tensors[name], np.float32(1) / factor)
            for name in group.weights:
                tensors[name] = _Scaled(tensors[name], factor)
    return replace(source, tensors=tensors)
