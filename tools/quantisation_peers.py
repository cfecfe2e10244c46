"""INT8 next to CTranslate2's int8 and whisper.cpp's q8_0, all made from the same weights.

    pip install ctranslate2 pywhispercpp==1.5.1
    pip download --no-deps --no-binary pywhispercpp pywhispercpp==1.5.1
    tar xf pywhispercpp-1.5.1.tar.gz
    python tools/quantisation_peers.py (--size tiny | --model DIR) --whisper-cpp pywhispercpp-1.5.1

needs g++ and, of whisper.cpp, the wheel (its ggml) and the sources: the public interface has no
encoder output, so whisper.cpp is compiled once more with one that has.

Every runtime gets the same log-mel features and the same tokens, and is compared with ours in
float32 on the weights before quantisation. Errors are root mean squares of the difference,
relative to those of the values, and the largest difference relative to the largest value. The
last two lines say whether ours are no larger than the smallest error of any peer. whisper.cpp
counts with flash attention, its default, and without: with it, the encoder attends to frames of
zeros as well.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import synthetic_audio
from tests.support.checkpoints import KNOWN_DIMENSIONS, Recipe, write_checkpoint, write_weights
from tests.support.formats.ctranslate2 import write_ctranslate2
from tests.support.formats.ggml import write_ggml
from tests.support.formats.seeded import load_seeded
from tools.peers.ctranslate2_outputs import ctranslate2_outputs
from tools.peers.outputs import Inputs, Outputs
from tools.peers.whisper_cpp_outputs import build_library, whisper_cpp_outputs
from tools.quantisation_table import quantised
from whisper_npu.audio import load_audio
from whisper_npu.audio.features import compute_log_mel
from whisper_npu.backends.opening import numpy_model
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.model.weight_shapes import weight_specification
from whisper_npu.ops.quant import Quantized
from whisper_npu.runtime.model import Model

N_STEPS = 16
SIZES = tuple(size for size in KNOWN_DIMENSIONS if not size.endswith(".en"))  # prompts name English
OURS = ("INT8 weights, float32", "INT8")
PEERS = ("CTranslate2 int8", "whisper.cpp q8_0", "whisper.cpp q8_0, flash")
# The peers also run without INT8: that shows how far they are from ours by themselves.
CTRANSLATE2 = {"int8": "int8_float32", "float32": "float32"}  # type of the file -> of the products
WHISPER_CPP = ("q8_0", "f16")  # it does not run files in float32


def write_source(args: argparse.Namespace, folder: Path) -> None:
    """The weights in float32, as a Hugging Face directory. Raises ValueError if they are INT8."""
    if args.size:
        write_checkpoint(Recipe(args.size, seed=args.seed), folder)
        return
    loaded = load_checkpoint(args.model)
    weights = {}
    for name in weight_specification(loaded.dims):
        weight = loaded.weights[name]
        if isinstance(weight, Quantized):
            raise ValueError(f"{args.model}: {name} is INT8 already; name the model it came from")
        weights[name] = weight
    folder.mkdir()
    for file in args.model.glob("*.json"):
        shutil.copy(file, folder)
    write_weights(loaded.dims, weights.items(), folder)


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


def relative_errors(outputs: Outputs, reference: Outputs) -> dict[str, float]:
    """Column of the table -> error."""
    found = {}
    for what in ("states", "logits"):
        value = getattr(reference, what)
        error = getattr(outputs, what) - value
        found[f"{what} rms"] = float(np.sqrt(np.square(error).mean() / np.square(value).mean()))
        found[f"{what} largest"] = float(np.abs(error).max() / np.abs(value).max())
    return found


def table(errors: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Lines of text: a row for each runtime, then whether ours is as good as the better peer."""
    columns = list(errors[OURS[0]])
    yield f"{'':<24}" + "".join(f"{column:>16}" for column in columns)
    for name, row in errors.items():
        yield f"{name:<24}" + "".join(f"{row[column]:>16.2e}" for column in columns)
    for name in OURS:
        verdicts = (
            "yes" if errors[name][column] <= min(errors[peer][column] for peer in PEERS) else "NO"
            for column in columns
        )
        yield f"{name + ' <=':<24}" + "".join(f"{verdict:>16}" for verdict in verdicts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--size", choices=SIZES, help="random weights of this size")
    source.add_argument("--model", type=Path, help="a model folder with floating-point weights")
    parser.add_argument("--seed", type=int, default=1, help="of random weights (default 1)")
    parser.add_argument("--audio", type=Path, help="a recording (default: a synthetic one)")
    parser.add_argument("--whisper-cpp", type=Path, required=True, help="pywhispercpp's sources")
    parser.add_argument("--build", type=Path, help="where whisper.cpp is kept once compiled")
    args = parser.parse_args()
    samples = load_audio(str(args.audio)) if args.audio else synthetic_audio.recorded_speech(30, 1)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_source(args, work / "source")
        seeded, plain = load_seeded(work / "source"), load_checkpoint(work / "source")
        model, int8 = numpy_model(plain), quantised(plain)
        inputs = forced_inputs(model, seeded.generation, samples)
        reference = our_outputs(model, inputs)
        found = {
            OURS[0]: our_outputs(numpy_model(int8), inputs),
            OURS[1]: our_outputs(numpy_model(int8, "int8"), inputs),
        }
        for dtype, compute_type in CTRANSLATE2.items():
            write_ctranslate2(seeded, work / dtype, dtype)
            name = f"CTranslate2 {dtype}"
            found[name] = ctranslate2_outputs(work / dtype, inputs, compute_type)
        library = build_library(args.whisper_cpp, args.build or work)
        for dtype in WHISPER_CPP:
            write_ggml(seeded, work / dtype, dtype)
            for flash, attention in ((False, ""), (True, ", flash")):
                name = f"whisper.cpp {dtype}{attention}"
                width = plain.dims.n_audio_state
                found[name] = whisper_cpp_outputs(library, work / dtype, inputs, width, flash)
    errors = {name: relative_errors(outputs, reference) for name, outputs in found.items()}
    print("\n".join(table(errors)))


if __name__ == "__main__":
    main()
