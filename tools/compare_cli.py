"""Run both command lines on the same recording and checkpoint and compare the files they write.

    python tools/compare_cli.py jfk.flac --model DIR [options of both]

openai-whisper's own command line runs with two changes: it is given the checkpoint's weights and
vocabulary, and the samples that whisper-npu decodes from the file, because its ffmpeg resamples
otherwise than soxr does. Sampling at a temperature draws from the same numbers on both sides.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import whisper

from tests.support.reference.adapter import load_reference, vocabulary_of
from tests.support.reference.sampling import Margins, seeded_sampling
from tests.support.reference.transcripts import unequal
from whisper_npu import load_audio

FORMATS = ("txt", "vtt", "srt", "tsv", "json")
FLOATS = 1e-4  # what the fields of the json file may differ by


def run_ours(audio: Path, model: Path, folder: Path, options: Sequence[str]) -> None:
    """whisper-npu, as a process of its own."""
    command = [sys.executable, "-m", "whisper_npu", "transcribe", str(audio), "--model", str(model)]
    command += ["--output_dir", str(folder), "--output_format", "all", *options]
    subprocess.run(command, check=True)


def run_openai(audio: Path, model: Path, folder: Path, options: Sequence[str]) -> Margins:
    """openai-whisper's ``cli()``; how narrow its decisions were."""
    cli = importlib.import_module("whisper.transcribe").cli
    arguments = ["whisper", str(audio), "--model", str(model), "--output_dir", str(folder)]
    arguments += ["--output_format", "all", "--fp16", "False", *options]
    with (
        mock.patch.object(sys, "argv", arguments),
        mock.patch.object(whisper, "load_model", return_value=load_reference(model)),
        mock.patch("whisper.audio.load_audio", load_audio),
        vocabulary_of(model),
        seeded_sampling(seed=0) as margins,
    ):
        cli()
    return margins


def compare(ours: Path, theirs: Path) -> list[str]:
    """What differs between two outputs, as lines of text."""
    if ours.suffix == ".json":
        own, other = (json.loads(path.read_text(encoding="utf-8")) for path in (ours, theirs))
        del own["placement"]  # which openai-whisper's has not
        return list(unequal(own, other, FLOATS))
    equal = ours.read_bytes() == theirs.read_bytes()
    return [] if equal else [f"{ours.name} differs from openai-whisper's"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the outputs of both command lines.")
    parser.add_argument("audio", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
    args, options = parser.parse_known_args()
    different = 0
    with tempfile.TemporaryDirectory() as root:
        ours, theirs = Path(root, "whisper-npu"), Path(root, "openai-whisper")
        run_ours(args.audio, args.model, ours, options)
        margins = run_openai(args.audio, args.model, theirs, options)
        for suffix in FORMATS:
            name = f"{args.audio.stem}.{suffix}"
            found = compare(ours / name, theirs / name)
            different += bool(found)
            print(f"{name}: {'; '.join(found[:5]) or 'equal'}")
    print(f"narrowest decision of openai-whisper: {margins.narrowest():.1e}")
    raise SystemExit(different > 0)


if __name__ == "__main__":
    main()
