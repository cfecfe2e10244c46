"""When each token was spoken: cross-attention, aligned to the audio by dynamic time warping.

The decoder is run once more over the text. Some of its cross-attention heads follow the audio;
their attention, smoothed and averaged, is a matrix of tokens by audio frames, and the cheapest
monotonic path through it gives each token its time (openai-whisper's timing).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.audio import TOKENS_PER_SECOND
from whisper_npu.decoding.finite import require_numbers
from whisper_npu.decoding.protocols import Aligner
from whisper_npu.errors import ModelError
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.ops.arrays import F32, I64
from whisper_npu.text.tokenizer import Tokenizer

Heads = Sequence[tuple[int, int]]

MEDIAN_WIDTH = 7

# Where a path comes from: the row and the column before, the row, the column.
_BOTH, _UP, _LEFT = 0, 1, 2


@dataclass
class WordTiming:
    """A word, its tokens, its times in seconds from the window's start, its probability."""

    word: str
    tokens: list[int]
    start: float
    end: float
    probability: float


def alignment_heads(generation: Mapping[str, Any], dims: ModelDimensions) -> Heads:
    """The (layer, head) pairs that follow the audio.

    ``generation`` is the model's generation_config.json: its ``alignment_heads``, or else all
    heads of the later half of the decoder. Heads that the model does not have are left out with a
    warning: a distilled model may have the list of its teacher, which is deeper. Raises ModelError
    for what is no list of pairs.
    """
    given = generation.get("alignment_heads") or []
    for pair in given if isinstance(given, list) else [given]:
        if not (
            isinstance(pair, list)
            and len(pair) == 2
            and all(type(number) is int and number >= 0 for number in pair)
        ):
            raise ModelError(
                f"generation_config.json: alignment_heads has {str(pair)[:100]!r}, which is no "
                "pair of a layer and a head"
            )
    heads = [(layer, head) for layer, head in given]
    found = [
        (layer, head)
        for layer, head in heads
        if layer < dims.n_text_layer and head < dims.n_text_head
    ]
    if len(found) < len(heads):
        instead = "the others" if found else "all heads of the later half"
        warnings.warn(
            f"generation_config.json: {len(heads) - len(found)} of {len(heads)} alignment_heads "
            f"are not in the decoder, which has {dims.n_text_layer} layers of {dims.n_text_head} "
            f"heads; words are timed with {instead}",
            stacklevel=2,
        )
    if found:
        return found
    layers = range(dims.n_text_layer // 2, dims.n_text_layer)
    return [(layer, head) for layer in layers for head in range(dims.n_text_head)]


def find_alignment(
    aligner: Aligner,
    tokenizer: Tokenizer,
    text_tokens: Sequence[int],
    num_frames: int,
    heads: Heads,
) -> list[WordTiming]:
    """Times and probabilities of the words of one window.

    ``aligner`` is that of the window, ``num_frames`` are its mel frames. Without text, or when the
    tokens make no whole word, there are no words.
    """
    if not text_tokens:
        return []
    start = len(tokenizer.sot_sequence)
    tokens = np.array(
        [*tokenizer.sot_sequence, tokenizer.no_timestamps, *text_tokens, tokenizer.eot]
    )
    logits, scores = aligner.align(tokens, heads)
    softmax = aligner.probabilities.softmax
    probabilities = softmax(logits[start : start + len(text_tokens), : tokenizer.eot])
    token_probs = probabilities[np.arange(len(text_tokens)), text_tokens].astype(np.float64)
    require_numbers(float(token_probs.sum()))
    times = token_times(attention_matrix(scores[:, :, : num_frames // 2], softmax)[start:-1])

    words, word_tokens = tokenizer.split_to_word_tokens([*text_tokens, tokenizer.eot])
    # The last word is the end of text: it closes the word before it.
    ends = np.cumsum([len(run) for run in word_tokens[:-1]], dtype=np.int64).tolist()
    return [
        WordTiming(word, run, float(times[i]), float(times[j]), float(token_probs[i:j].mean()))
        for word, run, i, j in zip(words[:-1], word_tokens[:-1], [0, *ends], ends, strict=False)
    ]


def attention_matrix(scores: F32, softmax: Callable[[F32], F32]) -> F32:
    # [h, n, frames] -> [n, frames]
    """Mean attention of heads: softmax over frames, standardised over tokens, median-filtered.

    ``scores`` are those before the softmax. A frame at which all tokens have the same attention
    tells nothing and counts 0.
    """
    mean = np.zeros(scores.shape[1:], np.float32)
    if scores.shape[2] == 0:
        return mean
    for head in scores:  # one at a time: large models have hundreds, of n * 1500 floats each
        weights = softmax(head)
        deviation = weights.std(axis=0)
        weights -= weights.mean(axis=0)
        weights /= np.where(deviation == 0, np.float32(1), deviation)
        mean += median_filter(weights, MEDIAN_WIDTH)
    mean /= np.float32(len(scores))
    return mean


def median_filter(x: F32, width: int) -> F32:  # [..., n] -> [..., n]
    """Running median over an odd ``width`` of the last axis, which is mirrored at its ends.

    Too short an axis to mirror, of ``width // 2`` or less, is returned as it is.
    """
    half = width // 2
    if x.shape[-1] <= half:
        return x
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(half, half)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=-1)
    median: F32 = np.partition(windows, half, axis=-1)[..., half]
    return median


def token_times(matrix: F32) -> NDArray[np.float64]:  # [n, frames] -> [n]
    """Seconds at which each token begins, along the cheapest path through ``-matrix``.

    Fewer than two frames do not tell tokens apart: all begin one frame before the window, as in
    openai-whisper, so that their segment has no length.
    """
    if matrix.shape[1] < 2:
        return np.full(len(matrix), -1 / TOKENS_PER_SECOND)
    text_indices, time_indices = dtw(-matrix)
    begins = np.diff(text_indices, prepend=-1) > 0
    times: NDArray[np.float64] = time_indices[begins] / TOKENS_PER_SECOND
    return times


def dtw(x: F32) -> tuple[I64, I64]:  # [n, m] -> [path], [path]
    """Dynamic time warping: the rows and the columns of the cheapest monotonic path through x.

    Unless another way is the only cheapest one the path goes left, as in openai-whisper, whose
    costs are float64 too (Numba makes them so). The table is filled by anti-diagonals, whose cells
    do not depend on each other: cell (i, j) is at place i of diagonal i + j.
    """
    n, m = x.shape
    costs = np.full((n + m + 1, n + 1), np.inf)
    rows = np.arange(n)[:, None]
    costs[rows + np.arange(m) + 2, rows + 1] = x
    trace = np.full((n + m + 1, n + 1), _LEFT, np.int8)
    before, last = np.full((2, n + 1), np.inf)
    last[0] = 0
    for diagonal in range(1, n + m + 1):
        both, up, left = before[:-1], last[:-1], last[1:]
        trace[diagonal, 1:][(up < both) & (up < left)] = _UP
        trace[diagonal, 1:][(both < up) & (both < left)] = _BOTH
        before, last = last, np.full(n + 1, np.inf)
        last[1:] = costs[diagonal, 1:] + np.choose(trace[diagonal, 1:], (both, up, left))
    return _backtrace(trace, n, m)


def _backtrace(trace: NDArray[np.int8], n: int, m: int) -> tuple[I64, I64]:
    path = []
    i, j = n, m
    while i > 0 and j > 0:
        path.append((i - 1, j - 1))
        step = trace[i + j, i]
        i -= step != _LEFT
        j -= step != _UP
    rows, columns = np.array(path[::-1]).T
    return rows, columns
