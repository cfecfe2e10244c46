"""Options are checked once, however many files and windows there are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import soundfile

from tests.support.signals import noise
from whisper_npu.backends.machine_options import MachineOptions
from whisper_npu.cli import main
from whisper_npu.decoding.options import DecodingOptions, TranscribeOptions


def test_options_are_checked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checks: Counter[str] = Counter()
    for kind in (TranscribeOptions, DecodingOptions, MachineOptions):
        check = kind.__post_init__

        def counted(options: object, name: str = kind.__name__, check: object = check) -> None:
            checks[name] += 1
            check(options)  # type: ignore[operator]

        monkeypatch.setattr(kind, "__post_init__", counted)
    files = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    for file in files:
        soundfile.write(file, noise(61 * 16000), 16000)
    output = ["--output_dir", str(tmp_path), "--output_format", "srt", "--quiet"]
    decoding = ["--language", "en", "--temperature_increment_on_fallback", "0.5"]
    assert main(["transcribe", "--model", "demo", *files, *output, *decoding]) == 0
    # Those of an attempt: one for each of three temperatures and each file.
    assert checks == {"TranscribeOptions": 1, "MachineOptions": 1, "DecodingOptions": 2 * 3}
