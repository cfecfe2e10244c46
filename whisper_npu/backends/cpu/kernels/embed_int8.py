"""Look-up of tokens in a table of integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from whisper_npu.backends.cpu.op_case import OpCase, Random, integers, one_not_finite
from whisper_npu.backends.cpu.records import BYTES, INTEGERS, CpuKernel, Ops, TensorField, Values
from whisper_npu.model.graph import Op
from whisper_npu.runtime.backend import Array


def _values(ops: Ops, a: Mapping[str, Array]) -> Values:
    # [b, n], [v, d], [v], [ctx, d], [] -> [b, n, d]
    (ctx, d), tokens = a["positions"].shape, a["tokens"]
    return {"rows": tokens.size, "n": tokens.shape[1], "d": d, "ctx": ctx}


def _cases(rng: Random) -> Iterator[OpCase]:
    op = Op("out", "embed_int8", ("tokens", "table", "scale", "positions", "position"), ("out",))
    for b, n, d, position in ((1, 1, 1, 0), (3, 4, 33, 5), (2, 1, 384, 447), (1, 40, 512, 0)):
        for name, table in integers(rng, (70, d)):
            tokens = rng.integers(0, 70, (b, n))
            tokens[0, 0] = 69
            yield OpCase(
                f"{name} {b}x{n} {d} at {position}", (op,),
                (tokens, table, rng.random(70, np.float32),
                 rng.standard_normal((448, d), np.float32), np.array(position)),
                (np.empty((b, n, d), np.float32),),
            )  # fmt: skip
    for name, (scale, positions) in one_not_finite(rng, (5,), (5, 33)):
        table = rng.integers(-127, 127, (5, 33), np.int8, endpoint=True)
        yield OpCase(
            name, (op,), (np.arange(5)[None], table, scale, positions, np.array(0)),
            (np.empty((1, 5, 33), np.float32),),
        )  # fmt: skip


EMBED_INT8 = CpuKernel(
    name="cpu_embed_int8",
    kinds=("embed_int8",),
    structure="EmbedInt8",
    reads=(
        TensorField("tokens", INTEGERS), TensorField("table", BYTES), TensorField("scale"),
        TensorField("positions"), TensorField("position", INTEGERS),
    ),
    writes=(TensorField("out"),),
    values=_values,
    cases=_cases,
    layout="tokens [b, n] int64, table [v, d], positions [ctx, d], out [b, n, d], all row-major",
    arithmetic="the token's integers times its scale, plus its position, each rounded",
    sources=("integers.cc",),
    model="quant.embed_int8",
)  # fmt: skip
