"""Alignment of tokens to audio: the numerical parts, and the corner cases that crash others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.unit.decoding_fakes import dimensions, small_tokenizer
from whisper_npu.decoding.timing import (
    alignment_heads,
    attention_matrix,
    dtw,
    find_alignment,
    median_filter,
    token_times,
)
from whisper_npu.errors import ModelError
from whisper_npu.ops.probabilities import FLOATS

TOKENIZER = small_tokenizer()
WORDS = TOKENIZER.encode(" the water")


def test_alignment_heads_of_the_generation_config() -> None:
    dims = dimensions()
    assert alignment_heads({"alignment_heads": [[1, 0], [3, 1]]}, dims) == [(1, 0), (3, 1)]
    later_half = [(2, 0), (2, 1), (3, 0), (3, 1)]
    for nothing in ({}, {"alignment_heads": None}, {"alignment_heads": []}):
        assert alignment_heads(nothing, dims) == later_half
    assert alignment_heads({}, dimensions(n_text_layer=3))[0] == (1, 0)


@pytest.mark.parametrize(
    ("heads", "text", "left"),
    [
        ([[1, 0], [4, 0], [0, 2]], "2 of 3 .* words are timed with the others", [(1, 0)]),
        (
            [[31, 1]],
            "1 of 1 .* 4 layers of 2 heads; .* all heads of the later half",
            [(2, 0), (2, 1), (3, 0), (3, 1)],
        ),
    ],
)
def test_alignment_heads_that_the_model_does_not_have(
    heads: Any, text: str, left: list[tuple[int, int]]
) -> None:
    with pytest.warns(UserWarning, match=text):
        assert alignment_heads({"alignment_heads": heads}, dimensions()) == left


@pytest.mark.parametrize("heads", [[[-1, 0]], [[0]], [["0", 0]], "all", [3], [[True, 0]], {"a": 1}])
def test_alignment_heads_that_are_no_pairs(heads: Any) -> None:
    with pytest.raises(ModelError, match=r"alignment_heads has .* is no pair of a layer"):
        alignment_heads({"alignment_heads": heads}, dimensions())


def test_median_filter() -> None:
    x = np.float32([3, 1, 4, 1, 5, 9, 2, 6])
    # Mirrored: 1 | 3 1 4 1 5 9 2 6 | 2.
    assert median_filter(x, 3).tolist() == [1, 3, 1, 4, 5, 5, 6, 2]
    assert median_filter(x[:3], 7).tolist() == [3, 1, 4]
    assert median_filter(x[:4], 7).shape == (4,)
    stacked = np.stack([x, x[::-1]])
    assert np.array_equal(median_filter(stacked, 3)[1], median_filter(x[::-1], 3))


def plain_dtw(x: np.ndarray) -> list[tuple[int, int]]:
    """The path by the definition, cell after cell."""
    n, m = x.shape
    cost = np.full((n + 1, m + 1), np.inf)
    cost[0, 0] = 0
    origin = {}
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            both, up, left = cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1]
            if both < up and both < left:
                origin[i, j] = (i - 1, j - 1)
            elif up < both and up < left:
                origin[i, j] = (i - 1, j)
            else:
                origin[i, j] = (i, j - 1)
            cost[i, j] = x[i - 1, j - 1] + cost[origin[i, j]]
    path, at = [], (n, m)
    while at != (0, 0):
        path.append((at[0] - 1, at[1] - 1))
        at = origin[at]
    return path[::-1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 8), (8, 5), (20, 33)])
def test_dtw(shape: tuple[int, int]) -> None:
    random = np.random.RandomState(sum(shape))
    for trial in range(20):
        x = random.standard_normal(shape).astype(np.float32)
        if trial % 2:
            x = np.round(x)  # equally cheap ways
        assert list(zip(*(axis.tolist() for axis in dtw(x)), strict=True)) == plain_dtw(x)


def test_dtw_finds_a_planted_path() -> None:
    rows = np.array([0, 0, 1, 2, 2, 2, 3])
    columns = np.array([0, 1, 2, 3, 4, 5, 5])
    x = 1 + np.random.RandomState(0).random_sample((4, 6)).astype(np.float32)
    x[rows, columns] -= 3
    found = dtw(x)
    assert (found[0].tolist(), found[1].tolist()) == (rows.tolist(), columns.tolist())


def test_dtw_keeps_differences_that_float32_sums_lose() -> None:
    # Sums near 8 million: float32 has no halves there.
    x = np.full((2, 3), 2.0**22, np.float32)
    x[1, 1] += 0.5
    rows, columns = dtw(x)
    assert (rows.tolist(), columns.tolist()) == ([0, 0, 1], [0, 1, 2])


def test_token_times() -> None:
    matrix = -np.random.RandomState(0).random_sample((3, 10)).astype(np.float32) / 100
    for token, frames in enumerate((range(4), range(4, 7), range(7, 10))):
        matrix[token, list(frames)] += 1
    assert token_times(matrix).tolist() == [0.0, 0.08, 0.14]


def plain_attention_matrix(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    weights = exponentials / exponentials.sum(axis=-1, keepdims=True)
    deviation = weights.std(axis=1, keepdims=True)
    weights = (weights - weights.mean(axis=1, keepdims=True)) / np.where(deviation, deviation, 1)
    padded = np.pad(weights, ((0, 0), (0, 0), (3, 3)), mode="reflect")
    filtered = [np.median(padded[..., i : i + 7], axis=-1) for i in range(scores.shape[2])]
    return np.stack(filtered, axis=-1).mean(axis=0)


def test_attention_matrix() -> None:
    scores = np.random.RandomState(0).standard_normal((4, 9, 50)).astype(np.float32) * 3
    # Measured: 1.1e-6.
    assert (
        abs(attention_matrix(scores, FLOATS.softmax) - plain_attention_matrix(scores)).max() < 4e-6
    )


def test_a_frame_that_all_tokens_attend_alike_counts_nothing() -> None:
    scores = np.zeros((2, 5, 20), np.float32)
    scores[:, :, 7] = -200  # the softmax gives exactly 0 there
    with np.errstate(all="raise", under="ignore"):
        assert np.array_equal(
            attention_matrix(scores, FLOATS.softmax), np.zeros((5, 20), np.float32)
        )


class Alignment:
    """A session whose heads follow the audio: token i attends to frames 4 i to 4 i + 3."""

    probabilities = FLOATS

    def __init__(self, probability: float = 0.9, scores: np.ndarray | None = None) -> None:
        self.probability, self.scores = probability, scores
        self.tokens: list[int] = []

    def align(
        self, tokens: np.ndarray, heads: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        self.tokens = tokens.tolist()
        n = len(tokens)
        # The logits at a token are those of the next one, over text tokens only.
        logits = np.full((n, TOKENIZER.vocabulary.n_vocab), 50, np.float32)
        logits[:, : TOKENIZER.eot] = 0
        others = TOKENIZER.eot - 1
        for i, token in enumerate(self.tokens[1:]):
            logits[i, token] = np.log(self.probability / (1 - self.probability) * others)
        if self.scores is not None:
            return logits, self.scores[:, :n]
        scores = np.zeros((len(heads), n, 1500), np.float32)
        for i in range(n):
            scores[:, i, 4 * i : 4 * i + 4] = 9
        return logits, scores


HEADS = [(2, 0), (3, 1)]


def align(session: Any, tokens: Sequence[int], num_frames: int = 200) -> Any:
    return find_alignment(session, TOKENIZER, tokens, num_frames, HEADS)


def test_words_are_timed() -> None:
    session = Alignment()
    found = align(session, WORDS)
    assert session.tokens == [*TOKENIZER.sot_sequence, TOKENIZER.no_timestamps, *WORDS, 756]
    assert [word.word for word in found] == [" the", " water"]
    assert [token for word in found for token in word.tokens] == WORDS
    # Rows begin with <|notimestamps|>, the fourth token: its row predicts the first word, and the
    # first word's frames are those at which it ends.
    assert found[0].start == 0.0
    assert found[0].end == found[1].start > 0
    assert found[1].end == (4 + len(WORDS) - 1) * 4 / 50 - 0.08 + 0.08
    for word in found:
        assert word.probability == pytest.approx(0.9, abs=1e-5)


@pytest.mark.parametrize("num_frames", range(15))
@pytest.mark.parametrize("n_tokens", [0, 1, 3])
def test_hardly_any_audio_or_text(num_frames: int, n_tokens: int) -> None:
    scores = np.random.RandomState(0).standard_normal((2, 20, 1500)).astype(np.float32)
    tokens = WORDS[:n_tokens]
    with np.errstate(all="raise", under="ignore"):
        found = align(Alignment(scores=scores), tokens, num_frames)
    assert [token for word in found for token in word.tokens] == tokens
    for word in found:
        assert -0.02 <= word.start <= word.end <= num_frames / 100


def test_one_frame_gives_no_word_a_length() -> None:
    for num_frames in (0, 1, 2, 3):
        for word in align(Alignment(), WORDS, num_frames):
            assert (word.start, word.end) == (-0.02, -0.02)


def test_equal_attention_everywhere() -> None:
    scores = np.zeros((2, 20, 1500), np.float32)
    with np.errstate(all="raise", under="ignore"):
        found = align(Alignment(scores=scores), WORDS)
    assert [word.word for word in found] == [" the", " water"]
    assert all(np.isfinite([word.start, word.end]).all() for word in found)


def test_tokens_that_make_no_character() -> None:
    # Two bytes of a character: the split finds a replacement for both and loses the second and
    # what follows it, so that the last word found is taken for the end of text.
    tokens = TOKENIZER.encode("\U0001f984")[:2]
    assert align(Alignment(), tokens) == []
    assert [word.word for word in align(Alignment(), [*WORDS, *tokens])] == [" the"]


@pytest.mark.reference
def test_dtw_and_median_filter_are_openais() -> None:
    timing = pytest.importorskip("whisper.timing")
    torch = pytest.importorskip("torch")
    random = np.random.RandomState(0)
    for trial in range(60):
        x = random.standard_normal((random.randint(1, 40), random.randint(1, 90)))
        # Equal costs; costs whose differences a float32 sum would lose.
        x = [x, np.round(x), x * 1e-3 + 1e4][trial % 3].astype(np.float32)
        assert np.array_equal(np.array(dtw(x)), timing.dtw(torch.from_numpy(x)))
    for shape in [(3, 5, 4), (3, 5, 3), (4, 100), (50,), (2, 3, 200)]:
        for width in (3, 5, 7, 13):
            x = random.standard_normal(shape).astype(np.float32)
            theirs = timing.median_filter(torch.from_numpy(x), width).numpy()
            assert np.array_equal(median_filter(x, width), theirs)


@pytest.mark.reference
def test_alignment_is_openais() -> None:
    timing = pytest.importorskip("whisper.timing")
    torch = pytest.importorskip("torch")
    random = np.random.RandomState(3)
    # Attention that moves on with the tokens, with noise: as a decoder's.
    for n_tokens, num_frames in ((1, 40), (5, 300), (30, 3000), (8, 7)):
        tokens = random.randint(97, TOKENIZER.eot, size=n_tokens).tolist()
        n = n_tokens + 5
        places = np.linspace(0, num_frames // 2, n)[:, None] - np.arange(1500)
        scores = random.standard_normal((2, n, 1500)) * 2 - (places / 20) ** 2
        scores = scores.astype(np.float32)
        session = Alignment(scores=scores)
        ours = find_alignment(session, TOKENIZER, tokens, num_frames, HEADS)
        model = their_model(torch, scores, session)
        expected = timing.find_alignment(model, TOKENIZER, tokens, torch.zeros(1), num_frames)
        assert [(w.word, w.tokens) for w in ours] == [(w.word, w.tokens) for w in expected]
        assert [(w.start, w.end) for w in ours] == [(w.start, w.end) for w in expected]
        probabilities = [w.probability for w in expected]
        # Measured: 1.1e-6, torch's rounding of a sum over the vocabulary.
        assert [w.probability for w in ours] == pytest.approx(probabilities, abs=3e-6)


def their_model(torch: Any, scores: np.ndarray, session: Alignment) -> Any:
    """openai-whisper's model, with the cross-attention and the logits of a session."""

    class CrossAttention(torch.nn.Module):
        def __init__(self, scores: np.ndarray) -> None:
            super().__init__()
            self.scores = torch.from_numpy(scores)[None]

        def forward(self) -> Any:
            return None, self.scores

    class Block:
        def __init__(self, scores: np.ndarray) -> None:
            self.cross_attn = CrossAttention(scores)

    class Model:
        device = torch.device("cpu")
        dims = dimensions()
        alignment_heads = torch.tensor([[0, 0], [0, 0], [1, 0], [0, 1]]).bool().to_sparse()

        def __init__(self) -> None:
            both = np.stack([scores[0], scores[1]])
            self.decoder = type("Decoder", (), {"blocks": [Block(both) for _ in range(4)]})

        def __call__(self, mel: Any, tokens: Any) -> Any:
            for block in self.decoder.blocks:
                block.cross_attn()
            logits, _ = session.align(tokens[0].numpy(), HEADS)
            return torch.from_numpy(logits)[None]

    return Model()
