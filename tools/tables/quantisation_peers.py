"""INT8 next to CTranslate2's int8 and whisper.cpp's q8_0, all made from the same weights.

    pip install ctranslate2 pywhispercpp==1.5.1

needs g++ and, of whisper.cpp, the wheel (its ggml) and the sources, which are downloaded: the
public interface has no encoder output, so whisper.cpp is compiled once more with one that has.

Every runtime gets the same log-mel features and the same tokens, and is compared with ours in
float32 on the weights before quantisation. Errors are root mean squares of the difference,
relative to those of the values, and the largest difference relative to the largest value.
whisper.cpp counts with flash attention, its default, and without: with it, the encoder attends to
frames of zeros as well. The peers also run without INT8: that shows how far they are from ours by
themselves.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import synthetic_audio
from tests.support.checkpoints import Recipe, write_checkpoint
from tests.support.formats.ctranslate2 import write_ctranslate2
from tests.support.formats.ggml import write_ggml
from tests.support.formats.seeded import load_seeded
from tools.markdown import markdown_table
from tools.measuring import relative_errors
from tools.tables.peers.ctranslate2_outputs import ctranslate2_outputs
from tools.tables.peers.outputs import Inputs, Outputs
from tools.tables.peers.whisper_cpp_outputs import build_library, whisper_cpp_outputs
from tools.tables.quantisation import SIZES, quantised
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.backends.opening import numpy_model
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.runtime.model import Model

N_STEPS = 16
CTRANSLATE2 = {"int8": "int8_float32", "float32": "float32"}  # type of the file -> of the products
WHISPER_CPP = ("q8_0", "f16")  # it does not run files in float32


def download_whisper_cpp(folder: Path) -> Path:
    """The sources of the installed pywhispercpp, unpacked. Raises CalledProcessError."""
    name = f"pywhispercpp=={version('pywhispercpp')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, "--no-binary", "pywhispercpp", name], check=True)
    (archive,) = folder.glob("pywhispercpp-*.tar.gz")
    shutil.unpack_archive(archive, folder)
    return folder / archive.name.removesuffix(".tar.gz")


def forced_inputs(model: Model, generation: Mapping[str, Any], samples: np.ndarray) -> Inputs:
    """A window, a prompt, and the text tokens that this model scores best one after the other."""
    dims = model.dims
    with compute_log_mel([samples], dims.n_mels, model.log_mel) as log_mel:
        features = log_mel.window(0)
    start = generation["decoder_start_token_id"]
    prompt = [start, generation["lang_to_id"]["<|en|>"], generation["task_to_id"]["transcribe"]]
    prompt.append(generation["no_timestamps_token_id"])
    session = model.decoder(model.encode(features[None]))
    logits = session.prefill([prompt], [len(prompt) - 1])[0]
    text: list[int] = []
    while len(text) < N_STEPS:
        text.append(int(logits[0, : generation["eos_token_id"]].argmax()))
        logits = session.step(text[-1:])
    return Inputs(np.ascontiguousarray(features), prompt, text)


def our_outputs(model: Model, inputs: Inputs) -> Outputs:
    """The same of one of ours."""
    states = model.encode(inputs.features[None])
    session = model.decoder(states)
    rows = [session.prefill([inputs.prompt], [len(inputs.prompt) - 1])[0, 0].copy()]
    rows += [session.step([token])[0].copy() for token in inputs.text]
    return Outputs(states[0], np.stack(rows))


def compare(recipe: Recipe, sources: Path, build: Path) -> dict[str, tuple[float, ...]]:
    """Each runtime's errors of encoder states and logits, root mean square and largest."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_checkpoint(recipe, work / "source")
        seeded, plain = load_seeded(work / "source"), load_checkpoint(work / "source")
        model, int8 = numpy_model(plain), quantised(plain)
        samples = synthetic_audio.recorded_speech(30, 1)
        inputs = forced_inputs(model, seeded.generation, samples)
        reference = our_outputs(model, inputs)
        found = {
            "ours, INT8 weights in float32": our_outputs(numpy_model(int8), inputs),
            "ours, `--precision int8`": our_outputs(numpy_model(int8, "int8"), inputs),
        }
        for dtype, compute_type in CTRANSLATE2.items():
            write_ctranslate2(seeded, work / dtype, dtype)
            name = f"CTranslate2 {dtype}"
            found[name] = ctranslate2_outputs(work / dtype, inputs, compute_type)
        library = build_library(sources, build)
        for dtype in WHISPER_CPP:
            write_ggml(seeded, work / dtype, dtype)
            for flash, attention in ((False, "without flash attention"), (True, "its default")):
                name = f"whisper.cpp {dtype}, {attention}"
                width = plain.dims.n_audio_state
                found[name] = whisper_cpp_outputs(library, work / dtype, inputs, width, flash)
    return {
        name: (
            *relative_errors(outputs.states, reference.states),
            *relative_errors(outputs.logits, reference.logits),
        )
        for name, outputs in found.items()
    }


def lines() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources = download_whisper_cpp(folder)
        found = [compare(Recipe(size, seed=1), sources, folder) for size in SIZES]
    yield f"Root mean square / largest, in thousandths, logits of {N_STEPS} steps."
    yield ""
    titles = [f"{size}, {what}" for size in SIZES for what in ("encoder", "logits")]
    rows = []
    for name in found[0]:
        errors = [1e3 * error for size in found for error in size[name]]
        pairs = zip(errors[::2], errors[1::2], strict=True)
        rows.append([name, *(f"{rms:.1f} / {largest:.1f}" for rms, largest in pairs)])
    yield from markdown_table(["", *titles], rows)
