"""openai-whisper, from its own kind of checkpoint."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisper

from tools.bench.runtime import LANGUAGE, Runtime


def load(model: Path, threads: int) -> Runtime:
    torch.set_num_threads(threads)
    return OpenaiWhisper(whisper.load_model(str(model), device="cpu"))


class OpenaiWhisper(Runtime):
    def __init__(self, model: Any) -> None:
        self._model = model

    def version(self) -> str:
        return f"openai-whisper {whisper.__version__}, torch {torch.__version__}"

    def features(self, values: array[float], n_mels: int) -> Any:
        return torch.from_numpy(np.frombuffer(values, np.float32).reshape(n_mels, -1).copy())

    def mel(self, samples: array[float]) -> Any:
        waveform = np.frombuffer(samples, np.float32)
        return whisper.log_mel_spectrogram(waveform, self._model.dims.n_mels)

    def encode(self, windows: Sequence[Any]) -> Any:
        with torch.inference_mode():
            return self._model.encoder(torch.stack(list(windows)))

    def decode(self, states: Any, n_tokens: int, beam_size: int = 1) -> list[list[int]]:
        options = whisper.DecodingOptions(
            language=LANGUAGE,
            without_timestamps=True,
            sample_len=n_tokens,
            beam_size=beam_size if beam_size > 1 else None,
            suppress_tokens="",
            suppress_blank=False,
            fp16=False,
        )
        return [result.tokens for result in whisper.decode(self._model, states, options)]

    def file(self, recording: Any, n_tokens: int, batch_size: int) -> int:
        result = whisper.transcribe(
            self._model,
            recording,
            language=LANGUAGE,
            without_timestamps=True,
            sample_len=n_tokens,
            temperature=0.0,
            suppress_tokens="",
            suppress_blank=False,
            condition_on_previous_text=False,
            no_speech_threshold=None,
            fp16=False,
        )
        return sum(len(segment["tokens"]) for segment in result["segments"])

    def transcribe(
        self, path: Path, language: str, batch_size: int = 1, fallback: bool = True
    ) -> str:
        # As an array: it reads files with the program ffmpeg.
        result = whisper.transcribe(
            self._model,
            self.read(path),
            language=language,
            condition_on_previous_text=False,
            fp16=False,
            **({} if fallback else {"temperature": 0.0}),
        )
        text: str = result["text"]
        return text

    def forced(self, path: Path, prompt: list[int], text: list[int]) -> Any:
        samples, n_mels = self.read(path), self._model.dims.n_mels
        # As transcribe() has it: after the last frame of audio come zeros, not silence.
        mel = whisper.log_mel_spectrogram(samples, n_mels, padding=whisper.audio.N_SAMPLES)
        frames = mel[:, : len(samples) // whisper.audio.HOP_LENGTH]
        states = self.encode([whisper.pad_or_trim(frames, whisper.audio.N_FRAMES)])
        with torch.inference_mode():
            logits = self._model.logits(torch.tensor([prompt + text]), states)
        return logits[0, len(prompt) - 1 :].numpy()
