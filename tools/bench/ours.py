"""whisper-npu, on NumPy or on the kernels compiled for this CPU."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import whisper_npu
from tools.bench.runtime import LANGUAGE, Runtime, Unsupported
from whisper_npu import Transcriber
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.decoding.options import DecodingOptions
from whisper_npu.decoding.task import decode
from whisper_npu.errors import KernelError

WINDOW_SECONDS = 30
# In the type that every runtime decodes in.
PLAIN: dict[str, Any] = {
    "language": LANGUAGE,
    "without_timestamps": True,
    "suppress_tokens": "",
    "suppress_blank": False,
}


def load(model: Path, threads: int, **options: Any) -> Runtime:
    """``options`` are those of Transcriber. Without any, the number of threads is left to it as
    well: that of the environment."""
    try:
        return Ours(Transcriber(model, **({**options, "threads": threads} if options else {})))
    except KernelError as error:
        raise Unsupported(str(error)) from error


class Ours(Runtime):
    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber
        # The phases one by one: the public door has no need of them.
        self._model, self._tokenizer = transcriber._model, transcriber._tokenizer

    def version(self) -> str:
        return f"whisper-npu {whisper_npu.__version__}, numpy {np.__version__}"

    def features(self, values: array[float], n_mels: int) -> Any:
        return np.frombuffer(values, np.float32).reshape(n_mels, -1)

    def mel(self, samples: array[float]) -> Any:
        model = self._model
        blocks = [np.frombuffer(samples, np.float32)]
        with compute_log_mel(blocks, model.dims.n_mels, model.log_mel, model.precision) as log_mel:
            return log_mel.window(0)

    def encode(self, windows: Sequence[Any]) -> Any:
        return self._model.encode(np.stack(windows))

    def decode(self, states: Any, n_tokens: int, beam_size: int = 1) -> list[list[int]]:
        beams = beam_size if beam_size > 1 else None
        options = DecodingOptions(**PLAIN, sample_len=n_tokens, beam_size=beams)
        results = decode(self._model, self._tokenizer, states, options)
        return [list(result.tokens) for result in results]

    def prepare_file(self, path: Path) -> Any:
        """The path: reading, a block at a time, is part of transcribing."""
        return path

    def file(self, recording: Any, n_tokens: int, batch_size: int) -> int:
        if batch_size > 1:
            return self._file_in_clips(recording, n_tokens, batch_size)
        return self._count(recording, n_tokens, condition_on_previous_text=False)

    def _file_in_clips(self, path: Path, n_tokens: int, batch_size: int) -> int:
        """Windows of 30 s wherever there are pauses, as the other runtimes have them."""
        import soundfile

        length = soundfile.info(str(path)).duration
        starts = range(0, int(length), WINDOW_SECONDS)
        clips = [t for start in starts for t in (start, min(start + WINDOW_SECONDS, length))]
        return self._count(path, n_tokens, clip_timestamps=clips, batch_size=batch_size)

    def _count(self, path: Path, n_tokens: int, **options: Any) -> int:
        segments = self._transcriber.segments(
            str(path),
            **PLAIN,
            sample_len=n_tokens,
            temperature=0.0,
            no_speech_threshold=None,
            **options,
        )
        return sum(len(segment.tokens) for segment in segments)

    def transcribe(
        self, path: Path, language: str, batch_size: int = 1, fallback: bool = True
    ) -> str:
        options: dict[str, Any] = {} if fallback else {"temperature": 0.0}
        if batch_size > 1:
            options["batch_size"] = batch_size
        result = self._transcriber.transcribe(
            str(path), language=language, condition_on_previous_text=False, **options
        )
        return result.text

    def chosen(self, path: Path, language: str) -> tuple[list[int], list[int]]:
        options = DecodingOptions(**{**PLAIN, "language": language})
        (result,) = decode(self._model, self._tokenizer, self._states(path), options)
        tokenizer = self._tokenizer.for_task(language, "transcribe")
        return list(tokenizer.sot_sequence_including_notimestamps), list(result.tokens)

    def forced(self, path: Path, prompt: list[int], text: list[int]) -> Any:
        session = self._model.decoder(self._states(path))
        tokens = prompt + text
        return session.prefill([tokens], range(len(prompt) - 1, len(tokens)))[0]

    def _states(self, path: Path) -> Any:
        return self.encode([self.mel(array("f", self.read(path).tobytes()))])
