"""Write what openai-whisper computes and writes, for tests that run without it.

    python -m tests.support.reference.dump_front_end

Writes tests/data/log_mel.npz (log-mel spectrograms of a signal that the tests can make again) and
tests/data/writers.json (a result dictionary and the files that openai-whisper's writers make of it
under several options). Needs openai-whisper.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from whisper.audio import N_SAMPLES, log_mel_spectrogram
from whisper.utils import get_writer

from tests.unit.signals import front_end_signal
from tests.unit.transcripts import KEPT_OPTIONS, TRANSCRIPTS

DATA = Path(__file__).parent.parent / "tests" / "data"


def main() -> None:
    """Write both files."""
    signal = front_end_signal()
    content = len(signal) // 160
    np.savez_compressed(
        DATA / "log_mel.npz",
        **{
            f"mel_{n_mels}": log_mel_spectrogram(signal, n_mels, padding=N_SAMPLES)[
                :, :content
            ].numpy()
            for n_mels in (80, 128)
        },
    )
    rendered = {
        name: [
            {extension: _written(extension, result, options) for extension in ("vtt", "srt")}
            for options in KEPT_OPTIONS
        ]
        if "words" in result["segments"][0]
        else {
            extension: _written(extension, result, {})
            for extension in ("txt", "vtt", "srt", "tsv", "json")
        }
        for name, result in TRANSCRIPTS.items()
    }
    text = json.dumps(rendered, indent=1, ensure_ascii=False)
    (DATA / "writers.json").write_text(text + "\n", encoding="utf-8")


def _written(extension: str, result: dict, options: dict) -> str:
    file = io.StringIO()
    get_writer(extension, ".").write_result(result, file, **options)
    return file.getvalue()


if __name__ == "__main__":
    main()
