"""Write what openai-whisper computes, transcribes and writes to tests/data.

    python -m tests.dump layers         # data/layers: samples of all tensors
    python -m tests.dump transcripts    # data/transcripts.json
    python -m tests.dump real           # data/real_transcripts.json: hashes of tests/real
    python -m tests.dump log_mel        # data/log_mel.npz: spectra of a signal
    python -m tests.dump writers        # data/writers.json: the files of openai-whisper's writers

The files let the tests compare with the reference where it is not installed. Run it again when a
seeded checkpoint, an input or a case of the tests changes; needs openai-whisper.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from whisper.audio import HOP_LENGTH, N_SAMPLES, log_mel_spectrogram
from whisper.utils import get_writer

from tests.parity.cases import CASES, SAMPLING_SEED, recording
from tests.parity.shapes import SHAPES
from tests.real import cases as real_cases
from tests.support import synthetic_audio
from tests.support.checkpoints import checkpoint, write_checkpoint
from tests.support.real import openai_whisper
from tests.support.reference import layers
from tests.support.reference.adapter import reference_model
from tests.support.reference.capture import capture_layers
from tests.support.reference.transcribe import transcribe
from tests.support.reference.transcripts import APPROXIMATE, summary
from tests.support.signals import front_end_signal
from tests.unit.transcripts import KEPT_OPTIONS, TRANSCRIPTS

DATA = Path(__file__).with_name("data")


def dump_layers() -> None:
    """A sample of every tensor of the prompt and the last step, and of the logits of all steps."""
    (DATA / "layers").mkdir(exist_ok=True)
    for shape, recipe in SHAPES.items():
        seeded = checkpoint(recipe)
        inputs = layers.seeded_inputs(seeded.dims, synthetic_audio.recorded_speech(30, seed=1))
        captured = capture_layers(reference_model(seeded.dims, seeded.weights), inputs)
        kept = {
            (phase, name): array
            for (phase, name), array in captured.items()
            if not phase.startswith("step") or name == "logits" or phase == f"step {layers.N_STEPS}"
        }
        path = DATA / "layers" / f"{shape}.npz"
        layers.save(path, kept)
        print(f"{path}: {len(kept)} tensors, {path.stat().st_size / 1000:.0f} kB")


def dump_transcripts() -> None:
    """The results of all cases; what is compared with a tolerance to seven places."""
    results = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(case.recipe, Path(folder))
            samples = recording(case.audio)
            result, margins = transcribe(Path(folder), samples, case.options, SAMPLING_SEED)
        results[name] = _rounded(result)
        n_tokens = sum(len(segment["tokens"]) for segment in result["segments"])
        print(f"{name}: {len(result['segments'])} segments, {n_tokens} tokens, {margins}")
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in results.items())
    (DATA / "transcripts.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def dump_real() -> None:
    """Counts and hashes of the results of published weights on real speech."""
    kept = {}
    for name, case in real_cases.CASES.items():
        reference = openai_whisper.transcribe(
            case.model, real_cases.recording(case.audio), case.options, real_cases.SAMPLING_SEED
        )
        kept[name] = summary(reference.result)
        temperatures = sorted({segment["temperature"] for segment in reference.result["segments"]})
        print(f"{name}: margin {reference.margin:.1e}, {temperatures}, {kept[name]}", flush=True)
    text = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in kept.items())
    (DATA / "real_transcripts.json").write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


def _rounded(value: Any, field: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.7f}") if field in APPROXIMATE else value


def dump_log_mel() -> None:
    """Log-mel spectra of a signal that the tests can make again."""
    signal = front_end_signal()
    content = len(signal) // HOP_LENGTH
    spectra = {
        f"mel_{n_mels}": log_mel_spectrogram(signal, n_mels, padding=N_SAMPLES)[:, :content].numpy()
        for n_mels in (80, 128)
    }
    np.savez_compressed(DATA / "log_mel.npz", **spectra)


def dump_writers() -> None:
    """The files that openai-whisper's writers make of two results, under several options."""
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


DUMPS = {
    "layers": dump_layers,
    "transcripts": dump_transcripts,
    "real": dump_real,
    "log_mel": dump_log_mel,
    "writers": dump_writers,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.dump", description="Write the reference's results to tests/data."
    )
    parser.add_argument("what", choices=DUMPS)
    DUMPS[parser.parse_args().what]()


if __name__ == "__main__":
    main()
