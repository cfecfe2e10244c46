"""transformers, from the Hugging Face folder."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

from tools.bench.runtime import LANGUAGE, RATE, Runtime, Unsupported


def load(model: Path, threads: int, dtype: str) -> Runtime:
    torch.set_num_threads(threads)
    loaded = transformers.WhisperForConditionalGeneration.from_pretrained(
        model, dtype=getattr(torch, dtype)
    )
    return Transformers(loaded.eval())


class Transformers(Runtime):
    def __init__(self, model: Any) -> None:
        self._model = model
        # It takes no language for a model that has only one.
        multilingual = model.generation_config.is_multilingual
        self._task = {"language": LANGUAGE, "task": "transcribe"} if multilingual else {}
        self._extractor = transformers.WhisperFeatureExtractor(model.config.num_mel_bins)

    def version(self) -> str:
        return f"transformers {transformers.__version__}, torch {torch.__version__}"

    def features(self, values: array[float], n_mels: int) -> Any:
        made = torch.from_numpy(np.frombuffer(values, np.float32).reshape(n_mels, -1).copy())
        return made.to(self._model.dtype)

    def mel(self, samples: array[float]) -> Any:
        waveform = np.frombuffer(samples, np.float32)
        made = self._extractor(waveform, sampling_rate=RATE, return_tensors="pt")
        return made.input_features[0].to(self._model.dtype)

    def encode(self, windows: Sequence[Any]) -> Any:
        with torch.inference_mode():
            return self._model.model.encoder(torch.stack(list(windows))).last_hidden_state

    def decode(self, states: Any, n_tokens: int, beam_size: int = 1) -> list[list[int]]:
        generated = self._model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            **self._task,
            max_new_tokens=n_tokens,
            num_beams=beam_size,
            do_sample=False,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
        return [window[-n_tokens:] for window in generated.tolist()]

    def file(self, recording: Any, n_tokens: int, batch_size: int) -> int:
        """Windows of 30 s in batches: its own loop for long files does one file at a time."""
        window = 30 * RATE
        starts = range(0, len(recording), batch_size * window)
        total = 0
        for start in starts:
            ends = range(start, min(start + batch_size * window, len(recording)), window)
            windows = [array("f", recording[at : at + window].tobytes()) for at in ends]
            total += sum(map(len, self.batch(windows, n_tokens)))
        return total

    def transcribe(
        self, path: Path, language: str, batch_size: int = 1, fallback: bool = True
    ) -> str:
        raise Unsupported("transformers' loop over windows has other rules")
