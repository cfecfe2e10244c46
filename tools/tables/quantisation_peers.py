"""INT8 next to CTranslate2's int8 and whisper.cpp's q8_0, all made from the same real weights.

    pip install ctranslate2 pywhispercpp==1.5.1

needs g++ and, of whisper.cpp, the wheel (its ggml) and the sources, which are downloaded: the
public interface has no encoder output, so whisper.cpp is compiled once more with one that has.

Every runtime gets the same log-mel features of real speech and the tokens of its text, and is
compared with ours in float32 on the weights before quantisation. Errors are root mean squares of
the difference, relative to those of the values, and the largest difference relative to the largest
value.
whisper.cpp counts with flash attention, its default, and without: with it, the encoder attends to
frames of zeros as well. The peers also run without INT8: that shows how far they are from ours by
themselves.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tests.support.real import data
from tools.integer_states import centred, last_norm
from tools.integer_states import states as integer_states
from tools.markdown import markdown_table
from tools.measuring import relative_errors
from tools.tables.peers.ctranslate2_outputs import ctranslate2_outputs
from tools.tables.peers.outputs import Inputs, Outputs
from tools.tables.peers.real_inputs import inputs, real_model
from tools.tables.peers.whisper_cpp_outputs import build_library, whisper_cpp_outputs
from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.model import Model

OURS = {"ours, int8": ("int8", "int8", True)}
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


def our_outputs(model: Model, inputs: Inputs, norm: tuple[F32, F32]) -> Outputs:
    """The same of one of ours. ``norm`` are gain and bias of the encoder's last norm."""
    states = model.encode(inputs.features[None])
    session = model.decoder(states)
    rows = [session.prefill([inputs.prompt], [len(inputs.prompt) - 1])[0, 0].copy()]
    rows += [session.step([token])[0].copy() for token in inputs.text]
    if model.precision == "int8":
        states = integer_states(states, *norm)
    return Outputs(states[0], np.stack(rows))


def compare(name: str, sources: Path, build: Path) -> dict[str, tuple[float, ...]]:
    """Each runtime's errors of encoder states and logits, root mean square and largest."""
    given = inputs(name)
    model = real_model(name, "float16", "float32")
    norm = last_norm(name)
    reference = our_outputs(model, given, norm)
    found = {what: our_outputs(real_model(name, *how), given, norm) for what, how in OURS.items()}
    for dtype, compute_type in CTRANSLATE2.items():
        # The published weights are float16; it quantises them when it loads them.
        found[f"CTranslate2 {dtype}"] = ctranslate2_outputs(data.weights(name), given, compute_type)
    library = build_library(sources, build)
    for dtype in WHISPER_CPP:
        for flash, attention in ((False, "without flash attention"), (True, "its default")):
            what = f"whisper.cpp {dtype}, {attention}"
            width = model.dims.n_audio_state
            found[what] = whisper_cpp_outputs(library, data.ggml(name, dtype), given, width, flash)
    return {
        name: (
            *relative_errors(outputs.states, reference.states),
            *relative_errors(centred(outputs.logits), centred(reference.logits)),
        )
        for name, outputs in found.items()
    }


def lines() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources = download_whisper_cpp(folder)
        found = [compare(name, sources, folder) for name in data.MODELS]
    yield "Root mean square / largest, in thousandths; logits of the text are less their means."
    yield ""
    titles = [f"{name}, {what}" for name in data.MODELS for what in ("encoder", "logits")]
    rows = []
    for name in found[0]:
        errors = [1e3 * error for model in found for error in model[name]]
        pairs = zip(errors[::2], errors[1::2], strict=True)
        rows.append([name, *(f"{rms:.1f} / {largest:.1f}" for rms, largest in pairs)])
    yield from markdown_table(["", *titles], rows)
