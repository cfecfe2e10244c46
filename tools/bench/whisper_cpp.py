"""whisper.cpp through ctypes, compiled for this CPU; without NumPy, which it does not need.

Greedy decoding is its network with nothing but the search for the largest logit; ``beam``,
``window`` and ``file`` are its own ``whisper_full``. That always encodes: the time of the encoder,
by whisper.cpp's clock, is taken off ``beam``.
"""

from __future__ import annotations

import ctypes
import os
import wave
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.bench.runtime import LANGUAGE, RATE, Runtime, Unsupported

# Where the library is: environment.py compiles it.
LIBRARY_VARIABLE = "WHISPER_BENCH_WHISPER_CPP"
WINDOW_SAMPLES = 30 * RATE


def load(model: Path, threads: int) -> Runtime:
    library = ctypes.CDLL(os.environ[LIBRARY_VARIABLE])
    library.bench_open.restype = ctypes.c_void_p
    library.bench_encoder_ms.restype = ctypes.c_float
    context = ctypes.c_void_p(library.bench_open(str(model).encode()))
    if not context:
        raise RuntimeError(f"whisper.cpp does not load {model}")
    return WhisperCpp(library, context, threads)


class WhisperCpp(Runtime):
    """Features and states stay in whisper.cpp's context: those that came last are decoded."""

    def __init__(self, library: Any, context: ctypes.c_void_p, threads: int) -> None:
        self._library, self._context, self._threads = library, context, threads
        self._prompt = [library.whisper_token_sot(context)]
        if library.whisper_is_multilingual(context):
            language = library.whisper_lang_id(LANGUAGE.encode())
            self._prompt.append(library.whisper_token_lang(context, language))
            self._prompt.append(library.whisper_token_transcribe(context))
        self._prompt.append(library.whisper_token_not(context))

    def version(self) -> str:
        built = self._text("whisper_print_system_info")
        used = [part.split(" = ")[0].split()[-1] for part in built.split("|") if " = 1" in part]
        return f"whisper.cpp {self._text('whisper_version')} with {', '.join(used)}"

    def _text(self, function: str) -> str:
        call = getattr(self._library, function)
        call.restype = ctypes.c_char_p
        text: str = call().decode()
        return text

    def features(self, values: array[float], n_mels: int) -> Any:
        return values, n_mels

    def mel(self, samples: array[float]) -> Any:
        self._check("pcm_to_mel", self._context, _pointer(samples), len(samples), self._threads)

    def encode(self, windows: Sequence[Any]) -> Any:
        ((values, n_mels),) = windows
        n_frames = len(values) // n_mels
        self._check("set_mel", self._context, _pointer(values), n_frames, n_mels)
        self._check("encode", self._context, 0, self._threads)

    def decode(self, states: Any, n_tokens: int, beam_size: int = 1) -> list[list[int]]:
        if beam_size > 1:
            return self._full(None, n_tokens, beam_size)
        prompt = (ctypes.c_int * len(self._prompt))(*self._prompt)
        tokens = (ctypes.c_int * n_tokens)()
        status = self._library.bench_decode(
            self._context, prompt, len(prompt), tokens, n_tokens, self._threads
        )
        if status != 0:
            raise RuntimeError(f"whisper_decode of whisper.cpp fails with {status}")
        return [list(tokens)]

    def seconds_of(self, stage: str, elapsed: float) -> float:
        if stage != "beam":
            return elapsed
        encoder_ms: float = self._library.bench_encoder_ms(self._context)
        return elapsed - encoder_ms / 1e3

    def window(self, samples: array[float], n_tokens: int) -> list[list[int]]:
        return self._full(samples, n_tokens)

    def batch(self, windows: Sequence[array[float]], n_tokens: int) -> list[list[int]]:
        raise Unsupported("whisper.cpp decodes one window at a time")

    def prepare_file(self, path: Path) -> Any:
        with wave.open(str(path)) as file:
            integers = array("h", file.readframes(file.getnframes()))
        return array("f", (value / 32768 for value in integers))

    def file(self, recording: Any, n_tokens: int, batch_size: int) -> int:
        (tokens,) = self._full(recording, n_tokens)
        return len(tokens)

    def transcribe(
        self, path: Path, language: str, batch_size: int = 1, fallback: bool = True
    ) -> str:
        if batch_size > 1:
            raise Unsupported("whisper.cpp decodes one window at a time")
        samples = self.prepare_file(path)
        text = ctypes.create_string_buffer(len(samples))
        status = self._library.bench_transcribe(
            self._context,
            _pointer(samples),
            len(samples),
            language.encode(),
            fallback,
            text,
            len(text),
            self._threads,
        )
        if status != 0:
            raise RuntimeError(f"whisper_full of whisper.cpp fails with {status}")
        return text.value.decode(errors="replace")

    def _full(
        self, samples: array[float] | None, n_tokens: int, beam_size: int = 1
    ) -> list[list[int]]:
        """The tokens of all windows of the samples, or of the features that are set, in one."""
        n_samples = 0 if samples is None else len(samples)
        n_windows = max(1, -(-n_samples // WINDOW_SAMPLES))
        tokens = (ctypes.c_int * (n_windows * n_tokens))()
        found = self._library.bench_full(
            self._context,
            None if samples is None else _pointer(samples),
            n_samples,
            beam_size,
            n_tokens,
            tokens,
            len(tokens),
            self._threads,
        )
        if not 0 <= found <= len(tokens):
            raise RuntimeError(f"whisper_full of whisper.cpp gives {found}")
        return [list(tokens[:found])]

    def _check(self, call: str, *arguments: Any) -> None:
        status = getattr(self._library, f"whisper_{call}")(*arguments)
        if status != 0:
            raise RuntimeError(f"whisper_{call} of whisper.cpp fails with {status}")


def _pointer(values: array[float]) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.buffer_info()[0])
