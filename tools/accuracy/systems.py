"""What is compared: runtimes, their weights and how they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.real import data


@dataclass(frozen=True)
class System:
    """``module`` of tools.bench runs ``weights(MODEL)`` with ``options``."""

    name: str
    module: str
    weights: Callable[[str], Path]
    options: Mapping[str, Any]

    @property
    def ours(self) -> bool:
        return self.module == "ours"


def _ours(name: str, dtype: str, precision: str, kernels: bool) -> System:
    options = {"precision": precision, "cpu_kernels": kernels}
    return System(name, "ours", partial(data.converted, dtype=dtype), options)


def _faster_whisper(compute_type: str) -> System:
    # The published weights are float16; it quantises them when it loads them.
    name = f"faster-whisper {compute_type.partition('_')[0]}"
    return System(name, "faster_whisper", data.weights, {"compute_type": compute_type})


#: What all others are compared with.
REFERENCE = _ours("ours, float32", "float16", "float32", kernels=False)
#: Float32 by others: as far as they are from ours is noise.
FLOAT32_PEERS = (
    System("openai-whisper float32", "openai_whisper", data.openai_pt, {}),
    _faster_whisper("float32"),
)
SYSTEMS = (
    REFERENCE,
    *FLOAT32_PEERS,
    _ours("ours, float32 on CPU kernels", "float16", "float32", kernels=True),
    # On NumPy it is the same to the bit: tools.bits shows that, and this is faster.
    _ours("ours, int8", "int8", "int8", kernels=True),
    _faster_whisper("int8_float32"),
)
