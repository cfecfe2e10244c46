"""The ways in which published weights are computed, by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from tests.support.real import data
from whisper_npu import Transcriber


class Mode(NamedTuple):
    """``weights`` is one of ``data.DTYPES``; the others are keywords of ``Transcriber``."""

    weights: str
    precision: str
    cpu_kernels: bool


FLOAT32, FLOAT32_ON_KERNELS = "float32", "float32 on kernels"
MODES: Mapping[str, Mode] = {
    FLOAT32: Mode("float16", "float32", cpu_kernels=False),
    FLOAT32_ON_KERNELS: Mode("float16", "float32", cpu_kernels=True),
    "int8 on NumPy": Mode("int8", "int8", cpu_kernels=False),
    "int8 on kernels": Mode("int8", "int8", cpu_kernels=True),
}


@cache
def transcriber(model: str, mode: str) -> Transcriber:
    """One of ``data.MODELS`` in a mode, loaded once.

    Raises KernelError where kernels are wanted and there are none: tests use ``cpu_home`` first.
    """
    weights, precision, cpu_kernels = MODES[mode]
    folder = data.converted(model, weights)
    return Transcriber(folder, precision=precision, cpu_kernels=cpu_kernels)
