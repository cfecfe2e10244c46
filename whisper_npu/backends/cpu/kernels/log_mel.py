"""The log-mel front end in integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from whisper_npu.backends.cpu.op_case import OpCase, Random, floats
from whisper_npu.backends.cpu.records import CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Op
from whisper_npu.ops.arrays import F32
from whisper_npu.ops.mel_int import MelTables, table_shapes
from whisper_npu.runtime.backend import Array, Form

_INT32 = Form("int32")


def _values(ops: Ops, a: Mapping[str, Array]) -> Values:
    n_mels, t = a["out"].shape
    return {"t": t, "n_mels": n_mels}


def _samples(rng: Random, t: int) -> Iterator[tuple[str, F32]]:
    n = 160 * (t - 1) + 400
    yield from floats(rng, (n,))
    yield "silence", np.zeros(n, np.float32)
    at = np.arange(n)
    # Signs that add up in a bin, at the largest number with 22 bits and one more.
    for period in (1, 2, 16, 50, 400):
        signs = np.where(at % period < (period + 1) // 2, 1, -1)
        yield f"square waves of {period}", np.nextafter(signs, 0, dtype=np.float32)
    integers = rng.integers(-(2**15), 2**15, n).astype(np.float32)
    yield "of 16 bits", integers * np.float32(2.0**-15)
    yield "of 16 bits, -60 dBFS", np.rint(integers * np.float32(1e-3)) * np.float32(2.0**-15)
    levels = np.exp2(rng.integers(-140, 120, n // 80 + 1)).astype(np.float32)
    yield "all levels", integers * np.float32(2.0**-15) * levels.repeat(80)[:n]
    clicks = np.where(at % 250 == 0, np.float32(1), integers * np.float32(2.0**-40))
    yield "clicks", clicks.astype(np.float32)
    # Halves of the unit that samples are rounded to, next to one that fixes it.
    halves = (at % 1000 + np.float32(0.5)) * np.float32(2.0**-22)
    halves[::100] = 0.75
    yield "ties", halves.astype(np.float32)


def _cases(rng: Random) -> Iterator[OpCase]:
    # Decimal arithmetic is imported where tables are made.
    from whisper_npu.ops.mel_tables import mel_tables

    attrs = (("hop", 160), ("n_fft", 400))
    for t, n_mels in ((1, 80), (2, 1), (7, 128), (33, 80), (65, 200)):
        op = Op("out", "log_mel_int16", ("samples", *table_shapes(n_mels)), ("out",), attrs)
        out = np.empty((n_mels, t), np.int16)
        for name, samples in _samples(rng, t):
            inputs = (samples, *mel_tables(n_mels))
            yield OpCase(f"{name} ({t}, {n_mels})", (op,), inputs, (out,))


LOG_MEL_INT16 = CpuKernel(
    name="cpu_log_mel_int16",
    kinds=("log_mel_int16",),
    structure="LogMelInt16",
    reads=(TensorField("samples"), *(TensorField(table, _INT32) for table in MelTables._fields)),
    writes=(TensorField("out", Form("int16")),),
    values=_values,
    cases=_cases,
    layout="samples [160 (t - 1) + 400], tables of mel_int.MelTables, out [n_mels, t]",
    arithmetic="transforms of 16 and of 25 integers, power by mel filters, log10 by a table: exact "
    "sums of whole numbers in doubles, rounded where the model says so",
    sources=("log_mel.cc",),
    model="mel_int.log_mel_int16",
)
