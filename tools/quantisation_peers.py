"""INT8 next to CTranslate2's int8 and whisper.cpp's q8_0, all made from the same weights.

    pip install ctranslate2 pywhispercpp==1.5.1
    pip download --no-deps --no-binary pywhispercpp pywhispercpp==1.5.1
    tar xf pywhispercpp-1.5.1.tar.gz
    python tools/quantisation_peers.py (--size tiny | --model DIR) --whisper-cpp pywhispercpp-1.5.1

needs g++ and, of whisper.cpp, the wheel (its ggml) and the sources: the public interface has no
encoder output, so whisper.cpp is compiled once more with one that has.

Every runtime gets the same log-mel features and the same tokens, and is compared with ours in
float32 on the weights before quantisation. Errors are root mean squares of the difference,
relative to those of the values, and the largest difference relative to the largest value.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import synthetic_audio
from formats.ctranslate2 import write_ctranslate2
from formats.ggml import write_ggml
from formats.seeded import SeededModel, load_seeded
from make_checkpoint import KNOWN_DIMENSIONS, Recipe, write_checkpoint, write_weights
from numpy.typing import NDArray
from peers.ctranslate2_outputs import ctranslate2_outputs
from peers.outputs import N_PROMPT, Outputs
from peers.whisper_cpp_outputs import build_library, whisper_cpp_outputs
from quantisation_table import quantised

from whisper_npu.audio import load_audio
from whisper_npu.features import compute_log_mel
from whisper_npu.model.checkpoint import Checkpoint, load_checkpoint
from whisper_npu.ops.quant import Quantized
from whisper_npu.runtime.model import Model

N_STEPS = 16
