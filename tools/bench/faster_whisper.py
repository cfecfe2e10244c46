"""faster-whisper on CTranslate2."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import faster_whisper
import numpy as np

from tools.bench.runtime import LANGUAGE, RATE, Runtime

WINDOW_SECONDS = 30


def load(model: Path, threads: int, compute_type: str) -> Runtime:
    loaded = faster_whisper.WhisperModel(
        str(model), device="cpu", compute_type=compute_type, cpu_threads=threads, num_workers=1
    )
    if loaded.model.compute_type != compute_type:
        raise RuntimeError(f"CTranslate2 computes in {loaded.model.compute_type}")
    return FasterWhisper(loaded)


def _max_length(n_tokens: int) -> int:
    """CTranslate2's limit for so many tokens after the prompt: it halves it."""
    return 2 * n_tokens


class FasterWhisper(Runtime):
    def __init__(self, model: Any) -> None:
        self._model = model
        tokenizer = faster_whisper.tokenizer.Tokenizer(
            model.hf_tokenizer,
            model.model.is_multilingual,
            task="transcribe",
            language=LANGUAGE,
        )
        self._prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]

    def version(self) -> str:
        return f"faster-whisper {faster_whisper.__version__}, CTranslate2 {ctranslate2.__version__}"

    def features(self, values: array[float], n_mels: int) -> Any:
        return np.frombuffer(values, np.float32).reshape(n_mels, -1)

    def mel(self, samples: array[float]) -> Any:
        # Without the 30 s of padding that its transcribe() cuts off again.
        features = self._model.feature_extractor(np.frombuffer(samples, np.float32), padding=0)
        return features[:, : self._model.feature_extractor.nb_max_frames]

    def encode(self, windows: Sequence[Any]) -> Any:
        return self._model.encode(np.stack(windows))

    def decode(self, states: Any, n_tokens: int, beam_size: int = 1) -> list[list[int]]:
        results = self._model.model.generate(
            states,
            [self._prompt] * states.shape[0],
            beam_size=beam_size,
            max_length=_max_length(n_tokens),
            suppress_blank=False,
            suppress_tokens=[],
        )
        return [result.sequences_ids[0] for result in results]

    def file(self, recording: Any, n_tokens: int, batch_size: int) -> int:
        length = len(recording) / RATE
        starts = range(0, int(length), WINDOW_SECONDS)
        clips = [{"start": t, "end": min(t + WINDOW_SECONDS, length)} for t in starts]
        segments, _ = faster_whisper.BatchedInferencePipeline(self._model).transcribe(
            recording,
            language=LANGUAGE,
            without_timestamps=True,
            # To which it adds the length of the prompt.
            max_new_tokens=_max_length(n_tokens) - len(self._prompt),
            temperature=0.0,
            beam_size=1,
            suppress_tokens=[],
            suppress_blank=False,
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
            vad_filter=False,
            clip_timestamps=clips,
            batch_size=batch_size,
        )
        return sum(len(segment.tokens) for segment in segments)

    def transcribe(
        self, path: Path, language: str, batch_size: int = 1, fallback: bool = True
    ) -> str:
        options: dict[str, Any] = {} if fallback else {"temperature": 0.0}
        model = self._model
        if batch_size > 1:
            model = faster_whisper.BatchedInferencePipeline(model)
            options["batch_size"] = batch_size
        segments, _ = model.transcribe(
            str(path), language=language, beam_size=1, condition_on_previous_text=False, **options
        )
        return "".join(segment.text for segment in segments)

    def forced(self, path: Path, prompt: list[int], text: list[int]) -> Any:
        extractor = self._model.feature_extractor
        # As transcribe() has it: after the last frame of audio come zeros, not silence.
        frames = extractor(self.read(path))[:, :-1]
        window = np.zeros((len(frames), extractor.nb_max_frames), np.float32)
        window[:, : frames.shape[1]] = frames
        # Tokens after the control tokens of a prompt are forced, and counted as generated.
        (result,) = self._model.model.generate(
            self.encode([window]),
            [prompt + text],
            beam_size=1,
            max_length=_max_length(len(text) + 1),
            return_logits_vocab=True,
            suppress_blank=False,
            suppress_tokens=[],
        )
        return np.stack([np.array(row).reshape(-1) for row in result.logits[0]])
