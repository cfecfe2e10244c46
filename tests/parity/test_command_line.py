"""Both command lines write the same files of the same recording and checkpoint.

openai-whisper's own command line runs with two changes: it is given the checkpoint's weights and
vocabulary, and the samples that whisper-npu decodes from the file, because its ffmpeg resamples
otherwise than soxr does. Sampling at a temperature draws from the same numbers on both sides.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from tests.support.checkpoints import Recipe
from tests.support.reference.transcripts import unequal
from whisper_npu import load_audio
from whisper_npu.cli import main

JFK = Path(__file__).parents[2] / "samples" / "jfk.flac"
FORMATS = ("txt", "vtt", "srt", "tsv", "json")
FLOATS = 1e-4  # what the fields of the json file may differ by


@pytest.mark.reference
def test_both_command_lines_write_the_same_files(
    seeded_directory: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    import whisper

    from tests.support.reference.adapter import load_reference, vocabulary_of
    from tests.support.reference.sampling import seeded_sampling

    model = seeded_directory(Recipe("nano", seed=2))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    shared = [str(JFK), "--model", str(model), "--output_format", "all", "--output_dir"]
    own = ["--precision", "float32", "--raw_timestamps", "True"]
    assert main(["transcribe", *shared, str(ours), *own]) == 0
    arguments = ["whisper", *shared, str(theirs), "--fp16", "False"]
    with (
        mock.patch.object(sys, "argv", arguments),
        mock.patch.object(whisper, "load_model", return_value=load_reference(model)),
        mock.patch("whisper.audio.load_audio", load_audio),
        vocabulary_of(model),
        seeded_sampling(seed=0),
    ):
        importlib.import_module("whisper.transcribe").cli()
    for suffix in FORMATS[:-1]:
        name = f"jfk.{suffix}"
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    own, other = (
        json.loads((folder / "jfk.json").read_text(encoding="utf-8")) for folder in (ours, theirs)
    )
    # Which openai-whisper's has not.
    del own["placement"], own["language_probability"]
    assert list(unequal(own, other, FLOATS)) == []
