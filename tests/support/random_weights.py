"""Seeded weights that make a Whisper with something to say, by arithmetic alone.

With plain random weights a Whisper repeats one token for ever: the token embedding is also the
output matrix, so the last token scores best, and what the blocks add hardly varies. Here

* the gains of the final norm have random signs: a token's score against itself averages out;
* attention scores spread widely, so that attention selects instead of averaging, and neurons
  that follow a GELU are used in pairs of opposite sign, so that its mean cancels: the hidden
  state varies with the last token, its position, the tokens before it and the audio;
* the logits spread far beyond what it takes for the best of N random tokens to stand out:
  probability gathers on one or two tokens, and candidates lie far apart on float32's scale;
* the bias of the final norm is one direction, and each token's share of that direction a
  constant added to its logit: timestamps, end of text and no speech come up now and then, and
  an earlier timestamp is worth more than a later one, so that times advance in steps.

Each tensor has a generator of its own, seeded by the model's seed and the tensor's name, and only
correctly rounded operations follow: the bits are the same on every machine and NumPy version.
(That rules out normal deviates and dot products.)
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.weight_shapes import TOKEN_EMBEDDING, weight_specification

CHUNK = 1 << 20  # random values drawn at a time, so that a large tensor needs no float64 copy

# Every vocabulary starts with the 256 bytes, printable ASCII first.
STRAY_BYTES = slice(94, 256)

# Standard deviations, given inputs of unit variance (every block reads through a layer norm).
CONVOLUTION = (1.5, 3.0)
ENCODER_SCORES = 1.5  # of attention scores
DECODER_SCORES = 3.0
CROSS_SCORES = 6.0
VALUES = 1.5
MLP_HIDDEN = 1.4
BLOCKS = 1.0  # of what all blocks of a side add up to, about
TOKEN = 0.6  # of a component of a token's vector
POSITION = 0.9
NORM = 0.2  # of gains about one and biases about zero

BIAS_DIRECTION = 6.0  # length of the final norm's bias

# Of logits, in standard deviations of a logit.
SPREAD = 2.2  # that deviation, in units of the largest of N standard normal values
TIMESTAMPS = -0.3  # the best allowed timestamp, relative to the best text token
TIMESTAMP_STEPS = 400  # timestamps (of 0.02 s) over which the preference falls by one
END_OF_TEXT = -1.1  # relative to the best text token, as the next
NO_SPEECH = 0.3
STRAY_BYTE = -1.5  # tokens of one byte that is not a printable character
NEVER = -6.0  # languages, tasks and the like: never sampled unless asked about


@dataclass(frozen=True)
class TokenLayout:
    """Where the special tokens are. Text tokens come first, timestamps last."""

    end_of_text: int
    no_speech: int
    timestamp_begin: int
    n_vocab: int


def random_weights(
    dims: ModelDimensions, layout: TokenLayout, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of a checkpoint as (Hugging Face name, float32 array), one at a time."""
    for name, shape in weight_specification(dims).items():
        yield name, _tensor(name, shape, dims, layout, seed)


def _tensor(
    name: str, shape: tuple[int, ...], dims: ModelDimensions, layout: TokenLayout, seed: int
) -> np.ndarray:
    generator = np.random.RandomState([seed, zlib.crc32(name.encode())])
    if name == TOKEN_EMBEDDING:
        return _token_embedding(generator, dims, layout, seed)
    if name == "model.encoder.embed_positions.weight":
        return _sinusoids(*shape)
    if name == "model.decoder.embed_positions.weight":
        return _uniform(generator, shape, POSITION)
    if name == "model.decoder.layer_norm.weight":
        gain = round(_logit_deviation(layout) / (TOKEN * math.sqrt(dims.n_text_state)), 3)
        signs = generator.randint(0, 2, shape).astype(np.float32) * 2 - 1
        return signs * _uniform(generator, shape, NORM * gain, gain)
    if name == "model.decoder.layer_norm.bias":
        return (_direction(seed, dims.n_text_state) * BIAS_DIRECTION).astype(np.float32)
    if "layer_norm" in name:
        return _uniform(generator, shape, NORM, 1.0 if name.endswith("weight") else 0.0)
    deviation = _output_deviation(name, dims)
    if name.endswith("bias"):
        return _uniform(generator, shape, 0.1 * deviation)
    weights = _uniform(generator, shape, deviation / math.sqrt(math.prod(shape[1:])))
    if name.endswith(("fc2.weight", "conv2.weight")):
        weights[:, 1::2] = -weights[:, 0::2]  # in pairs: these read GELUs
    return weights


def _output_deviation(name: str, dims: ModelDimensions) -> float:
    """Standard deviation of the outputs of a matrix, for inputs of unit variance."""
    of_encoder = ".encoder." in name
    if "encoder_attn" in name:
        scores = CROSS_SCORES
    else:
        scores = ENCODER_SCORES if of_encoder else DECODER_SCORES
    branch = BLOCKS / math.sqrt(2 * dims.n_audio_layer if of_encoder else 3 * dims.n_text_layer)
    return {
        "q_proj": math.sqrt(scores),
        "k_proj": math.sqrt(scores),
        "v_proj": VALUES,
        "out_proj": branch,
        "fc1": MLP_HIDDEN,
        "fc2": branch,
        "conv1": CONVOLUTION[0],
        "conv2": CONVOLUTION[1],
    }[name.split(".")[-2]]


def _largest(n: int) -> float:
    """About the largest of n standard normal values."""
    extreme = math.sqrt(2 * math.log(n))
    return extreme - (math.log(math.log(n)) + math.log(4 * math.pi)) / (2 * extreme)


def _logit_deviation(layout: TokenLayout) -> float:
    return SPREAD * _largest(layout.end_of_text)


def _token_embedding(
    generator: np.random.RandomState, dims: ModelDimensions, layout: TokenLayout, seed: int
) -> np.ndarray:
    table = _uniform(generator, (dims.n_vocab, dims.n_text_state), TOKEN)
    best_text = _largest(layout.end_of_text)
    timestamps = np.arange(layout.n_vocab - layout.timestamp_begin) / TIMESTAMP_STEPS
    bias = np.zeros(dims.n_vocab)
    bias[STRAY_BYTES] = STRAY_BYTE
    bias[layout.end_of_text :] = NEVER
    bias[layout.end_of_text] = best_text + END_OF_TEXT
    bias[layout.no_speech] = best_text + NO_SPEECH
    bias[layout.timestamp_begin : layout.n_vocab] = (
        best_text + TIMESTAMPS - _largest(TIMESTAMP_STEPS) - timestamps
    )
    # Calmer than text tokens, so that how often they come up depends little on the seed.
    table[[layout.end_of_text, layout.no_speech]] *= np.float32(0.5)
    # Rounded, so that the logarithms above need not be the same to the last bit everywhere.
    share = np.round(bias * _logit_deviation(layout) / BIAS_DIRECTION, 3)
    direction = _direction(seed, dims.n_text_state)
    for token in np.flatnonzero(share):
        table[token] += (share[token] * direction).astype(np.float32)
    return table


def _direction(seed: int, d: int) -> np.ndarray:
    """A vector of length one, float64 [d], with components of random sign and equal size."""
    signs = np.random.RandomState([seed, d]).randint(0, 2, d) * 2 - 1
    return signs / math.sqrt(d)


def _uniform(
    generator: np.random.RandomState, shape: tuple[int, ...], deviation: float, mean: float = 0.0
) -> np.ndarray:
    """Uniform deviates, float32, of a given standard deviation around a mean."""
    values = np.empty(math.prod(shape), np.float32)
    scale = 2 * math.sqrt(3) * deviation
    for start in range(0, values.size, CHUNK):
        part = values[start : start + CHUNK]
        part[:] = (generator.random_sample(part.size) - 0.5) * scale + mean
    return values.reshape(shape)


def _sinusoids(length: int, channels: int) -> np.ndarray:
    """The encoder's position table, float32 [length, channels]."""
    half = channels // 2
    # Rates of float32's precision make the products with positions exact in float64; sines of
    # the same angle differ between libraries by less than float32 shows.
    rates = np.array([10000.0 ** (-i / (half - 1)) for i in range(half)], np.float32)
    angles = np.arange(length)[:, None] * rates.astype(np.float64)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
