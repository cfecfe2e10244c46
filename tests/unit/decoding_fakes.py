"""A small tokenizer, and a model that says what it is told to, for tests of decoding."""

from __future__ import annotations

import json
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.vocabulary import small_vocabulary
from whisper_npu.audio import N_FRAMES
from whisper_npu.decoding import windows
from whisper_npu.decoding.engine import Engine
from whisper_npu.decoding.options import DecodingOptions, DecodingResult, TranscribeOptions
from whisper_npu.decoding.search import Logits
from whisper_npu.decoding.windows import Transcript, transcribe_windows
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.ops.choice import top_logprobs
from whisper_npu.ops.probabilities import FLOATS
from whisper_npu.text.tokenizer import Tokenizer

LANGUAGES = ["en", "de", "ja"]

# Logits of the next token, by id, given the window and the tokens so far; others are 0.
Script = Callable[[int, tuple[int, ...]], Mapping[int, float]]


def tokenizer_json(languages: Sequence[str] = LANGUAGES) -> dict[str, Any]:
    """A fresh tokenizer.json of 756 text tokens, to be changed at will."""
    return small_vocabulary(list(languages)).tokenizer_json()


def read_tokenizer(
    content: Mapping[str, Any], n_vocab: int | None = None, **generation: Any
) -> Tokenizer:
    """The tokenizer of a model directory with this tokenizer.json and generation config."""
    n_known = len(content["model"]["vocab"]) + len(content["added_tokens"])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        return Tokenizer.from_dir(folder, n_vocab or n_known, generation)


@cache
def small_tokenizer(language: str = "en") -> Tokenizer:
    return read_tokenizer(tokenizer_json()).for_task(language, "transcribe")


def special(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The entry of an added token."""
    return next(token for token in content["added_tokens"] if token["content"] == name)


def dimensions(n_text_ctx: int = 64, **changes: int) -> ModelDimensions:
    values = {
        "n_mels": 2,
        "n_audio_ctx": 1500,
        "n_audio_state": 1,
        "n_audio_head": 1,
        "n_audio_layer": 1,
        "n_vocab": small_tokenizer().vocabulary.n_vocab,
        "n_text_ctx": n_text_ctx,
        "n_text_state": 1,
        "n_text_head": 2,
        "n_text_layer": 4,
    }
    return ModelDimensions(**{**values, **changes})


def likeliest(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The op as a function."""
    tokens, logprobs = np.empty((len(logits), k), np.int64), np.empty((len(logits), k), np.float32)
    top_logprobs(logits, tokens, logprobs)
    return tokens, logprobs


class FakeSession:
    """Keeps the tokens of every sequence and asks the script for logits."""

    probabilities = FLOATS

    def __init__(self, model: FakeModel, windows: Sequence[int], group: int) -> None:
        self.model, self.windows = model, windows
        self.n_audio, self.group = len(windows), group
        self.contexts: list[tuple[int, ...]] = []

    def _logits(self, window: int, context: tuple[int, ...]) -> np.ndarray:
        logits = np.zeros(self.model.dims.n_vocab, np.float32)
        for token, value in self.model.script(window, context).items():
            logits[token] = value
        return logits

    def prefill(self, tokens: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        self.model.prompts += [tuple(row) for row in tokens.tolist()]
        self.contexts = [tuple(row) for row in tokens.tolist() for _ in range(self.group)]
        return np.array(
            [
                [self._logits(window, tuple(row[: i + 1])) for i in rows]
                for window, row in zip(self.windows, tokens.tolist(), strict=True)
            ]
        )

    def step(self, tokens: np.ndarray) -> np.ndarray:
        assert len(self.contexts[0]) < self.model.dims.n_text_ctx
        self.contexts = [
            (*context, token) for context, token in zip(self.contexts, tokens.tolist(), strict=True)
        ]
        windows = np.repeat(self.windows, self.group).tolist()
        return np.array([self._logits(*pair) for pair in zip(windows, self.contexts, strict=True)])

    def likeliest(self, logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return likeliest(logits, k)

    def reorder(self, source: np.ndarray) -> None:
        self.contexts = [self.contexts[i] for i in source.tolist()]

    def keep(self, windows: np.ndarray) -> None:
        kept = windows.tolist()
        assert len(kept) == len(set(kept)) > 0
        self.contexts = [c for i in kept for c in self.contexts[i * self.group :][: self.group]]
        self.windows = [self.windows[i] for i in kept]
        self.n_audio = len(kept)

    def join(self, other: FakeSession) -> None:
        assert self.group == other.group
        self.contexts += other.contexts
        self.windows = [*self.windows, *other.windows]
        self.n_audio += other.n_audio

    def align(
        self, tokens: np.ndarray, heads: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError("tests of words replace the alignment")


@dataclass
class FakeHalt:
    asked: bool = False


class FakeCounts:
    """Counts windows that are encoded."""

    def __init__(self) -> None:
        self.encoded = 0

    def add(self, other: Any, share: float = 1.0) -> None:
        self.encoded += other.encoded


class FakeModel:
    """A window is known by its position: ``FakeFeatures`` writes it where ``encode`` reads it."""

    probabilities = FLOATS

    def __init__(self, script: Script, **dims: int) -> None:
        self.script, self.dims = script, dimensions(**dims)
        self.prompts: list[tuple[int, ...]] = []
        self.n_encoded = 0
        self.halt, self.counts = FakeHalt(), FakeCounts()

    def new_counts(self) -> FakeCounts:
        return FakeCounts()

    @contextmanager
    def counted(self, counts: FakeCounts) -> Iterator[None]:
        before, self.counts = self.counts, counts
        try:
            yield
        finally:
            self.counts = before

    def encode(self, features: np.ndarray) -> np.ndarray:
        self.n_encoded += len(features)
        self.counts.encoded += len(features)
        return features[:, 0, :1]

    def decoder(self, states: Sequence[np.ndarray], group: int = 1) -> FakeSession:
        return FakeSession(self, [round(float(window[0])) for window in states], group)


class FakeFeatures:
    """Audio of ``n_frames``, of the same level everywhere, but for full windows at ``speech``.

    A full window is at ``-1 - seek`` if silence follows the audio in it.
    """

    def __init__(self, n_frames: int, speech: Sequence[int] = ()) -> None:
        self.speech = speech
        self.n_frames, self.duration = n_frames, n_frames / 100
        self.asked: list[tuple[int, int]] = []

    def window(self, seek: int, size: int | None = None) -> np.ndarray:
        size = N_FRAMES if size is None else size
        assert 0 < size <= min(N_FRAMES, self.n_frames - seek)
        self.asked.append((seek, size))
        return np.full((2, N_FRAMES), seek, np.float32)

    def full_window(self, seek: int) -> np.ndarray:
        whole = self.n_frames - seek >= N_FRAMES
        window = np.full((2, N_FRAMES), seek if whole else -1 - seek, np.float32)
        if seek in self.speech:
            window[1] += np.sin(np.arange(N_FRAMES))
        return window


class Levels(FakeFeatures):
    """Audio of given loudness; a window is still known by its position."""

    def __init__(self, levels: np.ndarray) -> None:
        super().__init__(len(levels))
        self.levels = levels

    def window(self, seek: int, size: int | None = None) -> np.ndarray:
        window = super().window(seek, size)
        window[1, :size] = self.levels[seek : seek + (size or 3000)]
        return window


def says(plan: Callable[[int], Sequence[int]] | Sequence[int]) -> Script:
    """A script that says a window's tokens one by one, then ends; it knows where it is by the
    number of tokens after the last one before timestamps or text could begin."""
    tokenizer = small_tokenizer()

    def script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
        tokens = plan(window) if callable(plan) else plan
        begins = [tokenizer.transcribe, tokenizer.translate, tokenizer.no_timestamps]
        start = max((i for i, t in enumerate(context) if t in begins), default=None)
        if start is None:
            return {}
        n_said = len(context) - 1 - start
        return {tokens[n_said] if n_said < len(tokens) else tokenizer.eot: 20.0}

    return script


def transcript(
    plan: Callable[[int], Sequence[int]] | Sequence[int],
    n_frames: int = 3000,
    model: FakeModel | None = None,
    tokenizer: Tokenizer | None = None,
    speech: Sequence[int] = (),
    **options: Any,
) -> Transcript:
    """A transcription in English at temperature 0, unless ``options`` say otherwise, of windows
    that say what is planned (or of ``model``)."""
    options = {"language": "en", "temperature": 0.0, **options}
    return begin_transcript(
        model or FakeModel(says(plan)),
        tokenizer or small_tokenizer(),
        FakeFeatures(n_frames, speech),
        TranscribeOptions(**options),
    )


def begin_transcript(
    model: FakeModel, tokenizer: Tokenizer, features: Any, options: TranscribeOptions
) -> Transcript:
    """``transcribe_windows`` on an engine of its own, while somebody has the transcript."""
    recording = Engine(model).open()
    try:
        result = transcribe_windows(recording, tokenizer, features, options)
    except BaseException:
        recording.close()
        raise
    weakref.finalize(result, recording.close)
    return result


# Position, options and prompt of an attempt at a window -> what comes of it.
Outcome = Callable[[int, DecodingOptions, tuple[int, ...]], DecodingResult]


def replace_decoding(monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> None:
    """Have attempts end with their first token, and with this outcome."""

    class Decided:
        def __init__(
            self, tokenizer: Any, dims: Any, options: Any, prompt: Any, seek: int, *_: Any
        ) -> None:
            self.group, self.prompt, self.rows = options.group, np.array([0]), (0, 0)
            self.choices, self.ended = 0, False
            self.error: Exception | None = None
            self.attempt = seek, options, tuple(prompt)
            self._result: DecodingResult | None = None

        def open(self, logits: np.ndarray) -> None:
            pass

        def forbid(self, logits: np.ndarray) -> None:
            pass

        def update(self, logits: Logits) -> None:
            self.ended = True

        def result(self) -> DecodingResult:
            # Once: who asks again asks for the same.
            if self._result is None:
                self._result = outcome(*self.attempt)
            return self._result

    monkeypatch.setattr(windows, "Decoding", Decided)


def seeks(result: Transcript) -> list[tuple[int, int]]:
    """Position and size of the windows that were decoded."""
    features = result._features
    assert isinstance(features, FakeFeatures)
    return features.asked
