"""Measures: how far each family of kernels is from the specification of the op that it could serve.

The host around a kernel is the best that its contract allows: it picks scales that lose least, and
takes back every factor that the kernel leaves in its output. What is measured is what remains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from whisper_npu.backends.npu.kernel_models import run_model
from whisper_npu.backends.npu.packing import GemmTile, pack_gemm_weights
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.verdicts import Measure
from whisper_npu.errors import KernelError
from whisper_npu.ops.activation import gelu
from whisper_npu.ops.arrays import F32, I8, I64
from whisper_npu.ops.attention import attention
from whisper_npu.ops.linear import layer_norm
from whisper_npu.ops.mel import HOP_LENGTH, N_FFT, mel_filters, mel_log10, normalise, stft_power

from . import speech_like
from .models.attention import SCORE_UNITS

# An op that falls back must not change a token, so the integers of a product have to be the same.
INTEGER_LIMIT = 0.0
# Of the largest output: one step of int8 for rounding the input, one for rounding the output. A
# kernel in bfloat16 needs half of one.
RELATIVE_LIMIT = 2 / 127
# Log-mel features span 2 (8 decades over 4): one step of int8 of that.
FEATURE_LIMIT = 2 / 255

# What the int8 formats of these kernels call 1.
_ONE = 128.0
# Gains are handed over divided by this, so that fewer outputs saturate; the best one counts.
_GAIN_DIVISORS = (1, 2, 4, 8)
_LONG_K = 5120
# The exponentials fit exp badly: at another scale than they were made for they may err less.
_SCORE_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """Measures of a kernel, and what they say in one sentence if any of them fails."""

    measures: tuple[Measure, ...]
    summary: str


def _relative(actual: NDArray[np.floating], wanted: NDArray[np.floating]) -> float:
    """Largest error, of the largest wanted value."""
    largest = float(np.abs(wanted).max())
    return float(np.abs(actual.astype(np.float64) - wanted).max()) / largest


def _quantize(x: F32, scale: float) -> I8:
    values: I8 = np.clip(np.rint(x / scale), -127, 127).astype(np.int8)
    return values


def _rows(x: F32) -> I8:  # [m, k] -> [m, k]
    """Rows as integers, the largest magnitude of each as 127."""
    largest = np.abs(x).max(axis=-1, keepdims=True)
    values: I8 = np.rint(x * (np.float32(127) / largest)).astype(np.int8)
    return values


def _axis(entry: KernelEntry, axis: str, largest: int) -> int:
    """A length of the tile, which a registry may give wrong or not at all."""
    value = entry.contract.tile.get(axis, 0)
    if not 1 <= value <= largest:
        raise KernelError(f"its tile has {value} for {axis}; 1 to {largest} can be measured")
    return value


def _share(x: NDArray[np.bool_]) -> float:
    return float(x.mean())


# Integer products


# Weights as a kernel takes them: [n, k] -> [n / tn, k / tk, ...].
Packer = Callable[[I8, GemmTile], I8]


def _by_tiles(w: I8, tile: GemmTile) -> I8:  # [n, k] -> [n / tn, k / tk, tk, tn]
    n, k = w.shape
    tiles: I8 = w.T.reshape(k // tile.k, tile.k, n // tile.n, tile.n).transpose(2, 0, 1, 3)
    return tiles


def judge_matmul(entry: KernelEntry, pack: Packer = _by_tiles) -> Judgement:
    """Tiles whose outputs are added over K on the host, against the exact sum over all of K.

    ``pack`` makes the weights' tiles.
    """
    x, w = speech_like.activations(64, 256), speech_like.weights(64, 256)
    outlier = x.copy()
    outlier[:, 3] *= 50
    long_x, long_w = speech_like.activations(64, _LONG_K), speech_like.weights(64, _LONG_K)
    full = np.full((64, 256), 127, np.int8)
    small = (np.arange(64 * 256, dtype=np.int64).reshape(64, 256) * 7 % 5 - 2).astype(np.int8)
    cases = {
        "speech-like, K = 256": (_rows(x), _rows(w)),
        "one channel times 50": (_rows(outlier), _rows(w)),
        f"K = {_LONG_K}": (_rows(long_x), _rows(long_w)),
        "all 127": (full, full),
        "all within 2": (small, small),
    }
    measures: list[Measure] = []
    for case, (values, columns) in cases.items():
        total, saturated = _tiled_product(entry, pack, values, columns)
        exact = values.astype(np.int64) @ columns.astype(np.int64).T
        mass = np.abs(values.astype(np.int64)) @ np.abs(columns.astype(np.int64)).T
        error = np.abs(total - exact)
        measures += [
            Measure(case, "sums that differ, share", _share(error != 0), INTEGER_LIMIT),
            Measure(case, "largest error", float(error.max())),
            Measure(case, "error of accumulated magnitude", float((error / mass).max())),
            Measure(case, "saturated partial sums, share", saturated),
        ]
    differ, _, of_mass, _ = (measure.value for measure in measures[:4])
    *_, lost, saturated = (measure.value for measure in measures if measure.case == "all 127")
    summary = (
        f"requantises before K is summed: of K = 256, {differ:.0%} of the sums differ, by up to "
        f"{of_mass:.1%} of the accumulated magnitude; at full scale {saturated:.0%} of the partial "
        f"sums saturate and {lost:.0%} of the magnitude is lost"
    )
    return Judgement(tuple(measures), summary)


def _tiled_product(
    entry: KernelEntry, pack: Packer, x: I8, w: I8
) -> tuple[I64, float]:  # [m, k], [n, k] -> [m, n]
    """Sum over K of what the kernel returns, and the share of its outputs at a bound."""
    m, k, n = _axis(entry, "m", 64), _axis(entry, "k", 256), _axis(entry, "n", 64)
    if 64 % m or 256 % k or 64 % n:
        raise KernelError(f"tiles of {m} x {k} x {n} do not divide what is measured")
    a = x.reshape(-1, m, x.shape[1] // k, k).transpose(0, 2, 1, 3)
    b = pack(w, GemmTile(m, k, n))
    rows, columns, depth = len(a), len(b), a.shape[1]
    lead = (rows, columns, depth, -1)
    pair = (
        np.broadcast_to(a.reshape(rows, 1, depth, -1), (rows, columns, depth, m * k)),
        np.broadcast_to(b.reshape(1, columns, depth, -1), (rows, columns, depth, k * n)),
    )
    inputs = pair if len(entry.contract.inputs) == 2 else (np.concatenate(pair, axis=-1),)
    (partial,) = run_model(entry, *inputs)
    wide = partial.astype(np.int64)
    total = wide.sum(axis=2).reshape(*lead[:2], m, n).transpose(0, 2, 1, 3)
    bounds = entry.contract.arithmetic.saturation
    saturated = 0.0 if bounds is None else _share((wide == bounds[0]) | (wide == bounds[1]))
    return total.reshape(len(x), len(w)) << (entry.contract.arithmetic.shift or 0), saturated


# Element by element and row by row


def judge_gelu(entry: KernelEntry) -> Judgement:
    """Values quantised at the scale that the table fixes, against GELU."""
    speech = speech_like.before_gelu().reshape(-1)
    scale, n = 1 / 127, _axis(entry, "n", speech.size)
    cases = {
        "speech-like": speech[: speech.size // n * n].reshape(-1, n),
        "-8 to 8": np.linspace(-8, 8, 4 * n, dtype=np.float32).reshape(-1, n),
        "-1 to 1": np.linspace(-1, 1, 4 * n, dtype=np.float32).reshape(-1, n),
    }
    measures: list[Measure] = []
    for case, x in cases.items():
        (y,) = run_model(entry, _quantize(x, scale))
        wanted = gelu(x)
        error = np.abs(y * scale - wanted).max()
        measures += [
            Measure(
                case, "error of the largest output", _relative(y * scale, wanted), RELATIVE_LIMIT
            ),
            Measure(case, "largest error", float(error)),
            Measure(case, "inputs beyond 1, share", _share(np.abs(x) > 1)),
        ]
    summary = (
        f"represents only [-1, 1], where {measures[2].value:.0%} of the inputs are not: errors of "
        f"up to {measures[1].value:.2g} ({measures[0].value:.0%} of the largest output)"
    )
    return Judgement(tuple(measures), summary)


def judge_layer_norm(entry: KernelEntry) -> Judgement:
    """Rows with gain and bias, against layer norm over the same width."""
    width = _axis(entry, "d", 8192)
    x, (gain, bias) = speech_like.activations(64, width), speech_like.gain_and_bias(width)
    outlier = x.copy()
    outlier[:, 3] *= 50
    offset = x + np.float32(20)
    run = _bfloat16_rows if "gamma" not in entry.contract.dtypes else _int8_rows
    measures: list[Measure] = []
    for case, rows in (
        ("speech-like", x),
        ("one channel times 50", outlier),
        ("mean of 20", offset),
    ):
        wanted = layer_norm(rows, gain, bias)
        y, saturated = run(entry, rows, gain, bias)
        measures += [
            Measure(case, "error of the largest output", _relative(y, wanted), RELATIVE_LIMIT),
            Measure(case, "saturated outputs, share", saturated),
        ]
    if run is _bfloat16_rows:
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        y, _ = run(entry, x, ones, zeros)
        plain = _relative(y, layer_norm(x, ones, zeros))
        measures.append(Measure("gain 1, bias 0", "error of the largest output", plain))
        summary = (
            f"has no gain and no bias: errors of up to {measures[0].value:.0%} of the largest "
            f"output where the op has them ({plain:.2%} where it has not)"
        )
    else:
        as_written = _int8_rows_at(entry, x, gain, bias, 1)
        measures.append(Measure("gain 1 is 127", "saturated outputs, share", as_written[1]))
        shift = entry.contract.arithmetic.shift
        summary = (
            f"an integer square root and quotients shifted by {shift}: errors "
            f"of up to {measures[0].value:.0%} of the largest output at the best scale, "
            f"{measures[2].value:.0%} with an outlier; {as_written[1]:.0%} of the outputs saturate "
            "at the scale of the source"
        )
    return Judgement(tuple(measures), summary)


def _int8_rows(
    entry: KernelEntry, x: F32, gain: F32, bias: F32
) -> tuple[Floats, float]:  # [t, d], [d], [d] -> [t, d]
    wanted = layer_norm(x, gain, bias)
    tries = [_int8_rows_at(entry, x, gain, bias, divisor) for divisor in _GAIN_DIVISORS]
    return min(tries, key=lambda found: _relative(found[0], wanted))


def _int8_rows_at(
    entry: KernelEntry, x: F32, gain: F32, bias: F32, divisor: int
) -> tuple[Floats, float]:
    largest = float(np.abs(gain).max()) * divisor
    parts = [
        _rows(x),
        np.broadcast_to(_quantize(gain, largest / 127), x.shape),
        np.broadcast_to(_quantize(bias, largest / _ONE), x.shape),
    ]
    inputs = parts if len(entry.contract.inputs) == 3 else [np.concatenate(parts, axis=-1)]
    (y,) = run_model(entry, *inputs)
    return y.astype(np.float64) * (largest / _ONE), _share((y == 127) | (y == -128))


def _bfloat16_rows(entry: KernelEntry, x: F32, gain: F32, bias: F32) -> tuple[Floats, float]:
    # Cut off, as nothing is known of how a host would round.
    (y,) = run_model(entry, (x.view(np.uint32) >> 16).astype(np.uint16))
    return (y.astype(np.uint32) << 16).view(np.float32).astype(np.float64), 0.0


# Attention


def judge_attention(entry: KernelEntry) -> Judgement:
    """One head, against attention over the same keys; then over twice as many as a tile holds."""
    t, d = _axis(entry, "t", 512), _axis(entry, "d_head", 512)
    model = entry.contract.model
    if model not in SCORE_UNITS:
        raise KernelError(f"model {model} has no scale of scores to measure it with")
    q, k, v = (speech_like.activations(2 * t, d, seed) for seed in (5, 6, 7))
    wild = k.copy()
    wild[:, 3] *= 20
    cases = {
        "speech-like": (q[:t], k[:t], v[:t]),
        "all scores equal": (np.zeros_like(q[:t]), k[:t], v[:t]),
        "one channel of the keys times 20": (q[:t], wild[:t], v[:t]),
        f"{2 * t} keys in tiles of {t}": (q, k, v),
    }
    measures = [
        Measure(
            case,
            "error of the largest output",
            _attention_error(entry, *qkv),
            RELATIVE_LIMIT,
        )
        for case, qkv in cases.items()
    ]
    speech, equal, _, longer = (measure.value for measure in measures)
    summary = (
        f"one head of {t} keys with weights of 7 bits: errors of up to {speech:.0%} of the largest "
        f"output, {equal:.0%} where all scores are equal; it sees no further than its tile, which "
        f"costs {longer:.0%} at {2 * t} keys (a window has 1,500)"
    )
    return Judgement(tuple(measures), summary)


def _attention_error(entry: KernelEntry, q: F32, k: F32, v: F32) -> float:
    """At the scale of scores that is best for these inputs."""
    wanted = attention(q[None], k[None], v[None], n_head=1)[0]
    return min(
        _relative(_tiled_attention(entry, q, k, v, factor), wanted) for factor in _SCORE_FACTORS
    )


def _tiled_attention(entry: KernelEntry, q: F32, k: F32, v: F32, factor: float) -> Floats:
    """Each tile of queries sees the keys and values of its own rows."""
    t, d = entry.contract.tile["t"], entry.contract.tile["d_head"]
    assert entry.contract.model is not None
    shift, unit = SCORE_UNITS[entry.contract.model]
    # With a factor of 1 a shifted score of ``unit`` is a score of 1 after the division by sqrt(d).
    product = factor * d**0.5 / (2**shift * unit)
    ratio = float(np.abs(q).max() / np.abs(k).max()) or 1.0
    q_scale, k_scale = (product * ratio) ** 0.5, (product / ratio) ** 0.5
    v_scale = float(np.abs(v).max()) / 127
    parts = [_quantize(q, q_scale), _quantize(k, k_scale), _quantize(v, v_scale)]
    packed = np.concatenate([part.reshape(-1, t * d) for part in parts], axis=-1)
    # A kernel with several tiles in one launch gets the same one in all of them.
    y = run_model(entry, *[packed] * len(entry.contract.inputs))[0]
    # The weights add up to 127 and are divided by 128.
    return y.reshape(q.shape).astype(np.float64) * (v_scale * 128 / 127)


# Mel


def judge_mel(entry: KernelEntry) -> Judgement:
    """Frames of audio, against the features of the specification.

    The kernel's output, and its logarithm, are mapped to the features by the best straight line of
    every band, which no host would know; the better of the two counts.
    """
    audio = speech_like.audio()
    # From 0 to 8 kHz over the length of the audio.
    chirp = 0.99 * np.sin(np.pi / 2 * np.arange(len(audio)) ** 2 / len(audio))
    cases = {
        "speech-like": audio,
        "speech-like, 40 dB less": speech_like.on_grid(audio * 0.01),
        "sweep at full scale": speech_like.on_grid(chirp),
    }
    measures: list[Measure] = []
    for case, samples in cases.items():
        y = _mel_frames(entry, samples)
        error = _best_line_error(y, _features(samples))
        measures += [
            Measure(case, "error of features that span 2", error, FEATURE_LIMIT),
            Measure(case, "outputs of 0, share", _share(y == 0)),
            Measure(case, "saturated outputs, share", _share(y == 127)),
        ]
    speech, quiet = measures[:3], measures[3:6]
    summary = (
        "no logarithm, and not the mel bands of Whisper: "
        f"errors of up to {speech[0].value:.2g} in features that span 2, after the best straight "
        f"line in every band; {speech[1].value:.0%} of the outputs are 0 and "
        f"{speech[2].value:.0%} saturated, 40 dB lower {quiet[1].value:.0%} are 0"
    )
    return Judgement(tuple(measures), summary)


def _mel_frames(entry: KernelEntry, samples: F32) -> I8:  # [n] -> [t, 80]
    whole = np.rint(samples * 32768).astype("<i2")
    frames = np.lib.stride_tricks.sliding_window_view(whole, N_FFT)[::HOP_LENGTH]
    (y,) = run_model(entry, np.ascontiguousarray(frames).view(np.int8))
    bands: I8 = y
    return bands


def _features(samples: F32) -> F32:  # [n] -> [t, 80]
    log_mel = mel_log10(stft_power(samples), mel_filters(80))
    features: F32 = normalise(log_mel, float(log_mel.max())).T
    return features


def _best_line_error(y: I8, features: F32) -> float:
    wide, wanted = y.astype(np.float64), features.astype(np.float64)
    return min(_line_error(wide, wanted), _line_error(np.log10(wide + 1), wanted))


def _line_error(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    square = (x * x).sum(axis=0)
    slope = np.divide((x * y).sum(axis=0), square, out=np.zeros_like(square), where=square > 0)
    return float(np.abs(y - slope * x).max())


# By the family of contracts; the first is our own.
MEASURES: Mapping[str, Callable[[KernelEntry], Judgement]] = {
    "gemm_int8": partial(judge_matmul, pack=pack_gemm_weights),
    "matmul": judge_matmul,
    "gelu": judge_gelu,
    "layer_norm": judge_layer_norm,
    "attention": judge_attention,
    "mel": judge_mel,
}
