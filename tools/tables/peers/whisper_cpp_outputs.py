"""whisper.cpp: encoder output and logits of forced tokens through its C interface."""

from __future__ import annotations

import ctypes
import subprocess
from importlib.metadata import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.tables.peers.outputs import Inputs, Outputs

SOURCE = Path(__file__).with_name("whisper_cpp_states.cpp")
THREADS = 1


def build_library(sources: Path, folder: Path) -> Path:
    """Compile whisper.cpp with access to its state, unless ``folder`` has it already.

    ``sources`` is pywhispercpp's source distribution, unpacked; ggml comes compiled, with the
    wheel of the same version.
    """
    library = folder / "libwhisper_states.so"
    if not library.exists():
        ggml = sorted(
            Path(str(file.locate())).resolve()
            for file in files("pywhispercpp") or ()
            if file.name.startswith("libggml")
        )
        root = sources / "whisper.cpp"
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-pthread"]
        command += [f"-I{root / part}" for part in ("src", "include", "ggml/include")]
        command += ['-DWHISPER_VERSION=""', str(SOURCE), *map(str, ggml)]
        command += [f"-Wl,-rpath,{ggml[0].parent}", "-o", str(library)]
        subprocess.run(command, check=True)
    return library


def whisper_cpp_outputs(
    library: Path, model: Path, inputs: Inputs, n_audio_state: int, flash_attention: bool
) -> Outputs:
    """With flash attention, its default, the encoder attends to some frames of zeros as well.

    Raises RuntimeError where a call of whisper.cpp's fails.
    """
    lib = ctypes.CDLL(str(library))
    lib.states_open.restype = ctypes.c_void_p
    lib.whisper_get_logits.restype = ctypes.POINTER(ctypes.c_float)
    context = ctypes.c_void_p(lib.states_open(str(model).encode(), flash_attention))
    if not context:
        raise RuntimeError(f"whisper.cpp does not load {model}")
    n_mels, n_frames = inputs.features.shape
    mel = np.ascontiguousarray(inputs.features)
    _check(lib.whisper_set_mel(context, _pointer(mel), n_frames, n_mels), "set_mel")
    _check(lib.whisper_encode(context, 0, THREADS), "encode")
    states = np.empty((n_frames // 2, n_audio_state), np.float32)
    lib.states_get(context, _pointer(states))
    n_vocab = lib.whisper_n_vocab(context)
    rows, position = [], 0
    for tokens in (inputs.prompt, *([token] for token in inputs.text)):
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        _check(lib.whisper_decode(context, ids, len(tokens), position, THREADS), "decode")
        # A row for each token, of which only the last is computed.
        logits = np.ctypeslib.as_array(lib.whisper_get_logits(context), (len(tokens), n_vocab))
        rows.append(logits[-1].copy())
        position += len(tokens)
    lib.whisper_free(context)
    return Outputs(states, np.stack(rows))


def _pointer(array: NDArray[np.float32]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _check(status: int, call: str) -> None:
    if status != 0:
        raise RuntimeError(f"whisper_{call} of whisper.cpp fails")
