"""Models that are loaded and transcribe: a result that holds together, or a ModelError.

An input is the name of a file, a line, and the content that it has.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from tests.fuzz.targets.readers import check_message, mutate_file
from tests.support.formats.ctranslate2 import write_ctranslate2
from tests.support.formats.ggml import write_ggml
from tests.support.formats.torch_pt import write_pickled
from tests.support.micro import micro_model, write_huggingface, write_int8, write_tokenizer
from tests.support.model_folders import split_tokenizer
from whisper_npu.audio import SAMPLE_RATE
from whisper_npu.errors import ModelError, OptionError
from whisper_npu.results import Transcription
from whisper_npu.transcriber import Transcriber

SECONDS = 10.0

_AUDIO = (np.random.default_rng(0).standard_normal(16000) * 0.1).astype(np.float32)


@cache
def seeds() -> dict[str, dict[str, bytes]]:
    """The files of all that can be transcribed with, by the kind of model; some are converted."""
    model, found = micro_model(whole_windows=True), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_huggingface(model, folder / "plain")
        write_huggingface(model, folder / "sharded", shards=2)
        write_huggingface(model, folder / "parts")
        write_int8(model, folder / "int8")
        for kind in ("plain", "sharded", "parts", "int8"):
            write_tokenizer(model, folder / kind)
        split_tokenizer(folder / "parts")
        write_ctranslate2(model, folder / "ctranslate2")
        write_huggingface(model, folder / "pickled")
        (folder / "pickled" / "model.safetensors").unlink()
        write_pickled(model, folder / "pickled")
        write_tokenizer(model, folder / "pickled")
        (folder / "ggml").mkdir()
        write_ggml(model, folder / "ggml" / "model.bin", "f32")
        for kind in sorted(path.name for path in folder.iterdir()):
            files = sorted((folder / kind).iterdir())
            found[kind] = {f"{kind}/{file.name}": file.read_bytes() for file in files}
    return found


def mutate(chance: Random) -> bytes:
    """One file of a folder, changed."""
    return mutate_file(chance.choice(list(seeds().values())), chance)


def check(data: bytes, folder: Path) -> str:
    """Load the folder, transcribe a second of noise, and look at the result."""
    name, _, content = data.partition(b"\n")
    file = folder / name.decode()
    kind = file.parent.name
    if not file.parent.is_dir():
        file.parent.mkdir()
        for path, original in seeds()[kind].items():
            (folder / path).write_bytes(original)
    try:
        file.write_bytes(content)
        os.environ["WHISPER_NPU_HOME"] = str(folder / "home")
        model = file if kind == "ggml" else file.parent
        # Options, too, follow from the input alone.
        return _transcribe(model, len(data))
    finally:
        file.write_bytes(seeds()[kind][name.decode()])
        # Not the evidence of CPU kernels, which are verified once in a process.
        shutil.rmtree(folder / "home" / "converted", ignore_errors=True)


def _transcribe(model: Path, number: int) -> str:
    options = {
        "language": "en" if number % 2 else None,
        "word_timestamps": number // 2 % 4 == 0,
        "beam_size": 2 if number // 8 % 4 == 0 else None,
        "initial_prompt": "the" if number // 32 % 4 == 0 else None,
        "without_timestamps": number // 128 % 4 == 0,
    }
    try:
        with Transcriber(model, precision=("float32", "int8")[number // 512 % 2]) as transcriber:
            result = transcriber.transcribe(_AUDIO, temperature=(0.0, 0.5), **options)
    except (ModelError, OptionError) as error:
        check_message(error)
        return "refused"
    check_result(result, len(_AUDIO) / SAMPLE_RATE)
    return "transcribed"


def check_result(result: Transcription, duration: float) -> None:
    """Raises AssertionError for numbers that are none, and times that are not of the audio."""
    for segment in result.segments:
        assert 0 <= segment.start <= segment.end <= duration + 0.011, segment
        for value in (segment.avg_logprob, segment.compression_ratio, segment.no_speech_prob):
            assert math.isfinite(value), segment
        for word in segment.words or ():
            assert 0 <= word.start <= word.end <= duration + 0.011, word
            assert math.isfinite(word.probability), word
    result.text.encode("utf-8")
